"""Where objectives run: in this process, in local processes, or on a Dask cluster; the results are the same."""

from __future__ import annotations

import math
import multiprocessing
import os
import pickle
import signal
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from types import TracebackType
from typing import Any, Protocol, Self

from qir.errors import MissingExtraError, SearchError
from qir.module import Module
from qir.policy import Policy

Objective = Callable[[Policy], float]

_ATTEMPTS = 2
_THREADS = "OMP_NUM_THREADS"


@dataclass(frozen=True, slots=True)
class Measured:
    """What measuring a policy gave: value (NaN if it failed), wall seconds, and the error in words or None."""

    value: float
    seconds: float
    error: str | None


class Workers(Protocol):
    """Measures policies; yields (position, measurement) as they finish, each position once."""

    def measure(self, objective: Objective, policies: Sequence[Policy]) -> Iterator[tuple[int, Measured]]:
        """Return the position in `policies` and measurement, in any order."""
        ...


def measure_one(objective: Objective, policy: Policy) -> Measured:
    """Call the objective; an exception or a value that is not finite becomes a failed measurement."""
    start = time.perf_counter()
    try:
        value = float(objective(policy))
        error = None if math.isfinite(value) else f"the objective is {value}"
    except Exception as problem:  # noqa: BLE001 - an objective is the user's code: recorded, skipped, counted
        value, error = math.nan, f"{type(problem).__name__}: {problem}"
    return Measured(value if error is None else math.nan, time.perf_counter() - start, error)


def sent(make: Callable[..., Any], module: Module, **arguments: Any) -> tuple[Any, ...]:
    """Return how an objective that was made from a module is pickled (its `__reduce__`): the module goes as text."""
    import qir

    return _received, (make, qir.print_module(module), arguments)


def _received(make: Callable[..., Any], text: str, arguments: dict[str, Any]) -> Any:
    import qir

    return make(qir.parse(text), **arguments)


class InProcess:
    """Runs objectives one after the other in this process."""

    def measure(self, objective: Objective, policies: Sequence[Policy]) -> Iterator[tuple[int, Measured]]:
        """Yield the position and measurement, in order."""
        for i, policy in enumerate(policies):
            yield i, measure_one(objective, policy)


@dataclass(slots=True)
class _Worker:
    process: BaseProcess
    pipe: Connection
    job: int | None = None


class LocalProcesses:
    """Runs objectives in local processes; a context manager.

    A worker that dies is replaced and its job is done again, once; a job that kills two workers has failed.

    Args:
        workers: number of processes.
    """

    def __init__(self, workers: int) -> None:
        if workers < 1:
            raise SearchError(f"workers: {workers}; expected 1 or more")
        self._context = multiprocessing.get_context("spawn")
        self._count = workers
        self._workers: list[_Worker] = []
        self._payload = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the processes."""
        for worker in self._workers:
            worker.pipe.close()
            worker.process.terminate()
            worker.process.join()
        self._workers = []

    def measure(self, objective: Objective, policies: Sequence[Policy]) -> Iterator[tuple[int, Measured]]:
        """Yield the position and measurement, as they finish.

        Raises:
            SearchError: the objective cannot be sent to another process.
        """
        self._load(objective)
        waiting, attempts = deque(range(len(policies))), [0] * len(policies)
        try:
            while waiting or any(worker.job is not None for worker in self._workers):
                self._hand_out(waiting, attempts, policies)
                busy = {worker.pipe: (worker, worker.job) for worker in self._workers if worker.job is not None}
                for pipe in wait(list(busy)):
                    worker, job = busy[pipe]  # type: ignore[index]  # wait returns what it was given
                    worker.job = None
                    try:
                        yield job, worker.pipe.recv()
                    except (EOFError, OSError):
                        self._bury(worker)
                        if attempts[job] < _ATTEMPTS:
                            waiting.appendleft(job)
                        else:
                            yield job, Measured(math.nan, 0.0, f"the worker process died {_ATTEMPTS} times")
        finally:
            if any(worker.job is not None for worker in self._workers):
                self.close()

    def _load(self, objective: Objective) -> None:
        try:
            payload = pickle.dumps(objective)
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            raise SearchError(
                f"local processes: the objective cannot be pickled ({error}); use a function or an object of a module, "
                "or evaluate in process"
            ) from error
        if payload != self._payload:
            self.close()
            self._payload = payload

    def _hand_out(self, waiting: deque[int], attempts: list[int], policies: Sequence[Policy]) -> None:
        while len(self._workers) < min(self._count, len(waiting) + sum(w.job is not None for w in self._workers)):
            self._workers.append(self._start())
        for worker in self._workers:
            if waiting and worker.job is None:
                job = waiting.popleft()
                attempts[job] += 1
                worker.job = job
                worker.pipe.send(dict(policies[job]))

    def _start(self) -> _Worker:
        here, there = self._context.Pipe()
        process = self._context.Process(target=_serve, args=(there, self._payload), daemon=True)
        with _share_of_cores(self._count):
            process.start()
        there.close()
        return _Worker(process, here)

    def _bury(self, worker: _Worker) -> None:
        worker.pipe.close()
        worker.process.join()
        self._workers.remove(worker)


@contextmanager
def _share_of_cores(workers: int) -> Iterator[None]:
    """Give processes started inside their share of the cores, not all of them, unless the user says how many."""
    if _THREADS in os.environ:
        yield
        return
    os.environ[_THREADS] = str(max(1, (os.cpu_count() or 1) // workers))
    try:
        yield
    finally:
        del os.environ[_THREADS]


def _serve(pipe: Connection, payload: bytes) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    objective: Objective = pickle.loads(payload)  # noqa: S301 - made by the parent process
    while True:
        try:
            policy = Policy(pipe.recv())
        except EOFError:
            return
        pipe.send(measure_one(objective, policy))


class DaskCluster:
    """Runs objectives on a Dask cluster. The scheduler redoes the jobs of a worker that died.

    Args:
        scheduler: address such as "tcp://host:8786", or a `distributed.LocalCluster`.
        timeout: seconds to wait for the scheduler.

    Raises:
        SearchError: the scheduler does not answer.
    """

    def __init__(self, scheduler: Any, timeout: float = 10.0) -> None:
        try:
            distributed: Any = import_module("distributed")
        except ImportError as error:
            raise MissingExtraError("distributed", "dask") from error
        self._as_completed = distributed.as_completed
        try:
            self._client = distributed.Client(scheduler, timeout=timeout)
        except (OSError, ValueError, TimeoutError) as error:
            raise SearchError(
                f"dask: no scheduler answers at {scheduler} within {timeout:g} s; start one or name its address"
            ) from error

    def close(self) -> None:
        """Leave the cluster."""
        self._client.close()

    def measure(self, objective: Objective, policies: Sequence[Policy]) -> Iterator[tuple[int, Measured]]:
        """Yield the position and measurement, as they finish."""
        shared = self._client.scatter(objective, broadcast=True, hash=False)
        futures = {self._client.submit(measure_one, shared, p, pure=False): i for i, p in enumerate(policies)}
        for future in self._as_completed(list(futures)):
            if future.status == "finished":
                yield futures[future], future.result()
            else:
                yield futures[future], Measured(math.nan, 0.0, f"dask: {future.exception()}")


@contextmanager
def workers_of(workers: int = 1, scheduler: str | None = None) -> Iterator[Workers]:
    """Where objectives run, by what a user says: this process, local processes, or a Dask cluster; closed at the end.

    Raises:
        SearchError: both several workers and a scheduler, no worker, or the scheduler does not answer.
    """
    if scheduler is not None and workers != 1:
        raise SearchError(f"{workers} local workers and scheduler {scheduler!r}: give one of the two")
    if scheduler is not None:
        cluster = DaskCluster(scheduler)
        try:
            yield cluster
        finally:
            cluster.close()
    elif workers == 1:
        yield InProcess()
    else:
        with LocalProcesses(workers) as processes:
            yield processes
