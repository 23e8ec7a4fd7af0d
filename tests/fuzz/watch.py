"""Cases in a process of their own with limits of time and memory: what is found is counted and told by its place.

As a program (`watch.py ROOT NAME FIRST LAST`) it tries cases in order and prints a line of JSON after each.
"""

from __future__ import annotations

import collections
import contextlib
import faulthandler
import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from dataclasses import dataclass, field
from pathlib import Path

SECONDS = 30.0
"""Processor time that a case may take."""

PATIENCE = 20
"""How much longer it may take by the clock, which runs on while other processes have the processor."""

MEMORY = 2 << 30
"""Bytes that a case may take on top of what the process had."""

START_SECONDS = 180.0


@dataclass
class Tally:
    """Outcomes of the cases of one kind or verb.

    Attributes:
        counts: how often each outcome came.
        findings: for each kind of failure, the first case and what it said.
    """

    counts: collections.Counter[str] = field(default_factory=collections.Counter)
    findings: dict[str, tuple[int, str]] = field(default_factory=dict)
    times: collections.Counter[str] = field(default_factory=collections.Counter)

    def add(self, index: int, outcome: str, place: str, told: str) -> None:
        self.counts[outcome] += 1
        if outcome not in {"read", "refused"}:
            key = f"{outcome} {place}"
            self.times[key] += 1
            self.findings.setdefault(key, (index, told))

    def __str__(self) -> str:
        lines = [f"{dict(self.counts)}"]
        for key, (index, told) in sorted(self.findings.items(), key=lambda item: -self.times[item[0]]):
            lines.append(f"{self.times[key]} x {key}, first in case {index}:\n{told}")
        return "\n".join(lines)


def try_all(root: Path, name: str, first: int, last: int) -> Tally:
    """Try the cases of a kind or verb with these indices; a process that dies or hangs is replaced."""
    tally, index = Tally(), first
    while index < last:
        index = _try_some(root, name, index, last, tally)
    return tally


def _try_some(root: Path, name: str, first: int, last: int, tally: Tally) -> int:
    """The index at which the process ended."""
    with tempfile.TemporaryFile("w+") as errors:
        command = [sys.executable, "-P", __file__, str(root), name, str(first), str(last)]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OMP_NUM_THREADS": "1"}
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True, env=environment)
        lines: queue.Queue[str] = queue.Queue()
        threading.Thread(target=_forward, args=(process, lines), daemon=True).start()
        index, seconds = first, START_SECONDS
        try:
            while index < last:
                try:
                    line = lines.get(timeout=seconds)
                except queue.Empty:
                    tally.add(index, "HANGS", "", _end_of(errors))
                    return index + 1
                if not line:
                    process.wait()
                    tally.add(index, "CRASHES", f"exit {process.returncode}", _end_of(errors))
                    return index + 1
                seconds = SECONDS * PATIENCE + 5
                outcome, place, told = json.loads(line)
                tally.add(index, outcome, place, told)
                index += 1
            return index
        finally:
            process.kill()
            process.wait()


def _forward(process: subprocess.Popen[str], lines: queue.Queue[str]) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        lines.put(line)
    lines.put("")


def _end_of(errors: object) -> str:
    errors.seek(0)  # type: ignore[attr-defined]
    return "\n".join(errors.read().splitlines()[-40:])  # type: ignore[attr-defined]


def try_one(root: Path, name: str, index: int) -> tuple[str, str, str]:
    """Outcome of a case, where it happened, and what was said."""
    from commands import VERBS, try_command
    from kinds import try_file

    from qir.errors import QirError

    with tempfile.TemporaryDirectory(prefix="qir-fuzz-") as folder:
        try:
            said = (try_command if name in VERBS else try_file)(root, Path(folder), name, index)
        except QirError:
            return "refused", "", ""
        except Exception as error:  # noqa: BLE001 - whatever it is, it is the finding
            return "ESCAPES", _place(error), traceback.format_exc()[-3000:]
    return ("refused" if said == "refused" else "read"), "", ""


def _place(error: BaseException) -> str:
    """Class of an exception and the deepest line of qir that it passed."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if "/tests/" not in frame.filename and "site-packages" not in frame.filename]
    ours = [frame for frame in ours if "/lib/python" not in frame.filename] or list(frames)
    return f"{type(error).__name__} {Path(ours[-1].filename).name}:{ours[-1].lineno}"


def main() -> None:
    """Try cases, as said above."""
    root, name, first, last = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    sink = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    with contextlib.suppress(ImportError):
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for index in range(first, last):
        before = _reset_peak()
        faulthandler.dump_traceback_later(SECONDS * PATIENCE, exit=True)
        started = time.process_time()
        outcome = try_one(root, name, index)
        faulthandler.cancel_dump_traceback_later()
        if (seconds := time.process_time() - started) > SECONDS:
            outcome = ("HANGS", f"{seconds:.0f} s, {outcome[0]}", outcome[2])
        if (used := _peak() - before) > MEMORY:
            outcome = ("EATS", f"{used >> 20} MiB, {outcome[0]}", outcome[2])
        sink.write(json.dumps(outcome) + "\n")
        sink.flush()


def _reset_peak() -> int:
    """Resident bytes; from now on `_peak` counts anew."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def _peak() -> int:
    return _status("VmHWM")


def _status(name: str) -> int:
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) << 10 for line in lines if line.startswith(f"{name}:")), 0)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    main()
