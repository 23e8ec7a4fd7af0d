"""Foreign code on files that are not our own, in a process with limits: ONNX's inference and the folding of nodes.

ONNX's inference and ONNX Runtime's kernels are C++ that trusts what a file claims: a hundred bytes can ask for more
memory than there is, divide by zero or read past an array. One worker process (`sandbox_worker`) is started when it is
first needed, answers job after job, and is replaced when a job ends it.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, cast

from qir.errors import QirError

INFER, INFER_WITH_DATA, EVALUATE = b"i", b"d", b"e"
"""Jobs: types of a model's values; the same with the numbers in computed shapes; a model's outputs."""

START_SECONDS = 120.0
"""A worker that does not answer after so many seconds is not started: it loads a few libraries in less than one."""


STALLED = 10.0 if hasattr(signal, "setitimer") else 1.0
"""A job may take so many times its seconds of the CPU on the clock: other programs may keep the CPU from it."""


class LimitError(QirError):
    """Foreign code took too long or too much memory, or no process can be started for it."""


class LateError(LimitError):
    """Foreign code took too long."""


class RefusedError(QirError):
    """Foreign code refused a model, or ended its process; the message is its reason."""


class Worker:
    """One process; a job at a time."""

    def __init__(self) -> None:
        """Start it.

        Raises:
            LimitError: no process can be started.
        """
        script = Path(__file__).with_name("sandbox_worker.py")
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OPENBLAS_NUM_THREADS": "1"}
        try:
            self._process = subprocess.Popen(  # noqa: S603 - our own script
                [sys.executable, "-P", str(script)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=environment,
            )
        except (OSError, ValueError) as error:
            raise LimitError(f"no process can be started with {sys.executable!r}: {error}") from error
        self._sink = cast(IO[bytes], self._process.stdin)  # pipes were asked for
        self._source = cast(IO[bytes], self._process.stdout)
        with self._deadline(START_SECONDS):
            answer = self._receive(1)
        if answer != b"+":
            self.stop()
            raise LimitError(f"the process of {script} does not start: run `{sys.executable} {script}` to see why")

    def run(self, job: bytes, model: bytes, *, seconds: float, memory: int) -> bytes:
        """Return what the worker answers; it is stopped when it does not answer.

        Raises:
            LimitError: a limit was passed.
            RefusedError: the job failed, or ended the process.
        """
        header = job + memory.to_bytes(8, "little") + max(1, round(1000 * seconds)).to_bytes(8, "little")
        with self._deadline(STALLED * seconds) as is_late:
            try:
                self._sink.write((len(header) + len(model)).to_bytes(8, "little") + header)
                self._sink.write(model)
                self._sink.flush()
                answer = self._receive(memory)
            except OSError:
                answer = b""
        kind, content = answer[:1], answer[1:]
        if kind == b"+":
            return content
        if not kind:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(1)  # it tells by which signal it ends
            self.stop()
        if is_late() or self._is_out_of_time:
            raise LateError(f"it takes more than {seconds:.0f} s")
        if kind == b"!":
            raise LimitError(f"it takes more than {memory >> 20} MiB")
        raise RefusedError(content.decode(errors="replace") or "it ends the process: a number or a shape is damaged")

    @property
    def _is_out_of_time(self) -> bool:
        """Whether the process ended because it took more of the CPU than its job allows."""
        return STALLED > 1 and self._process.returncode == -signal.SIGPROF

    def stop(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._sink, self._source):
            with contextlib.suppress(OSError):
                pipe.close()

    @property
    def is_running(self) -> bool:
        """Whether it can be given a job."""
        return self._process.poll() is None

    @contextlib.contextmanager
    def _deadline(self, seconds: float) -> Iterator[Callable[[], bool]]:
        """End the process after so many seconds; gives whether that happened."""
        late = threading.Event()

        def end() -> None:
            late.set()
            self._process.kill()

        timer = threading.Timer(seconds, end)
        timer.daemon = True
        timer.start()
        try:
            yield late.is_set
        finally:
            timer.cancel()

    def _receive(self, largest: int) -> bytes:
        """Return one message, empty when the process ended or claims more than `largest` bytes."""
        header = self._source.read(8)
        length = int.from_bytes(header, "little")
        if len(header) < 8 or length > largest:
            return b""
        message = self._source.read(length)
        return message if len(message) == length else b""


_LOCK = threading.Lock()
_WORKER: Worker | None = None


def run_apart(job: bytes, model: bytes, *, seconds: float, memory: int) -> bytes:
    """Give a job to the warm worker, which is started when there is none.

    Args:
        job: `INFER`, `INFER_WITH_DATA` or `EVALUATE`.
        model: a serialized model.
        seconds: what the job may take, of the CPU where the system counts that.
        memory: bytes that it may take, the answer included.

    Returns:
        The serialized model with types, or a graph whose initializers are the outputs.

    Raises:
        LimitError: a limit was passed, or no process can be started.
        RefusedError: the job failed, or ended the process.
    """
    global _WORKER
    with _LOCK:
        if _WORKER is None or not _WORKER.is_running:
            _WORKER = Worker()
        try:
            return _WORKER.run(job, model, seconds=seconds, memory=memory)
        except QirError:
            raise
        except BaseException:  # Ctrl-C, SIGTERM, no memory: its answer would be taken for that of the next job
            _WORKER.stop()
            raise


def _forget_worker() -> None:
    """In a child that a fork made: the worker is the parent's, and the thread that holds the lock is not here."""
    global _LOCK, _WORKER
    _LOCK, _WORKER = threading.Lock(), None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_worker)


@atexit.register
def stop_worker() -> None:
    """End the warm worker of this process, if there is one."""
    if _WORKER is not None and _WORKER.is_running:
        _WORKER.stop()
