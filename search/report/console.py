"""What a search prints: a progress bar, its result, where everything is."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from qir.errors import SearchError
from qir.support.terminal import Terminal

if TYPE_CHECKING:
    from pathlib import Path

    from qir.search.problem.result import Progress as Episode
    from qir.search.problem.result import Result
    from qir.search.report.quantized import Quantized
    from qir.support.progress import Step

CONSOLE = Terminal(width=None if sys.stdout.isatty() else 120)
_START = time.perf_counter()


@contextmanager
def progress_bar(total: int, label: str) -> Iterator[Callable[[Episode], None]]:
    """Show a progress bar of a search: episode, best reward, latency ratio."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("episode {task.fields[episode]} best {task.fields[best]:.3f} ratio {task.fields[ratio]:.3f}"),
    )
    with Progress(*columns, console=CONSOLE) as bar:
        task = bar.add_task(label, total=total, episode=0, best=float("nan"), ratio=float("nan"))

        def update(episode: Episode) -> None:
            bar.update(
                task, completed=episode.evaluations, episode=episode.episode, best=episode.best, ratio=episode.ratio
            )

        yield update


@contextmanager
def stage_bar() -> Iterator[Callable[[Step], None] | None]:
    """Show on a terminal which stage a job is in, how far that is, and how long it still takes.

    On standard error; None where that is not a terminal.
    """
    console = Terminal(stderr=True)
    if not console.is_terminal:
        yield None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[left]}"))
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("", total=None, left="")

        def update(step: Step) -> None:
            left = "" if step.left is None else f"{step.left:.0f} s left"
            bar.update(task, description=step.stage, completed=step.done, total=step.total or None, left=left)

        yield update


def print_result(result: Result, measured: str) -> None:
    """Print bits, costs against their limits, value and certificate; `measured` says what the value is."""
    plain = Terminal(soft_wrap=True)
    for line in result.lines(measured):
        plain.print(line)


def resources(done: Quantized, report: Path) -> int:
    """Hold the written file against network and reference; print where everything is, time and peak memory.

    Raises:
        SearchError: the quantization was loaded, and holds no network.

    Returns:
        How many outputs of ONNX Runtime differ from the integer reference; the simulated network, which computes on
        floats, may round ties otherwise.
    """
    from qir.backends.execution.pairs import Differences, pairs
    from qir.onnx_io import load
    from qir.passes.data.samples import batches, fitting_samples
    from qir.passes.parity.executors import executor

    if done.module is None:
        raise SearchError("a quantization that was loaded holds no network to compare with: quantize again")
    written, module = done.written, done.module
    exported = load(written.model)
    simulated, fused, integer = executor("torch", module), executor("fused", exported), executor("integer", exported)
    found, wrong = Differences(), 0
    values = (value for value in module.graph.values() if not value.is_constant)
    batch = fitting_samples(module, done.samples, values, 500)
    for feed, expected, run in pairs(simulated, fused, batches(module, done.samples, batch=batch)):
        found.add(feed, expected, run)
        (name, output), (other,) = next(iter(run.outputs.items())), expected.outputs.values()
        rows = (output != other).any(axis=1)
        if rows.any():
            exact = integer.run({key: array[rows] for key, array in feed.items()}).outputs[name]
            wrong += int((exact != output[rows]).sum())
    CONSOLE.print(
        f"ONNX Runtime: {wrong} of {found.elements:,} outputs differ from the integer reference, "
        f"{found.unequal} from the simulated network ({found.flips} decisions); "
        f"integer kernels: {', '.join(written.integer_nodes)}"
    )
    for label, path in (
        ("model", written.model),
        ("guide", written.guide),
        ("weights", written.weights),
        ("report", report),
    ):
        CONSOLE.print(f"{label:8}{path}  ({path.stat().st_size:,} bytes)")
    peak = _peak_memory()
    memory = "" if peak is None else f", peak memory {peak / 2**20:,.0f} MiB"
    CONSOLE.print(f"{time.perf_counter() - _START:.0f} s{memory}")
    return wrong


def _peak_memory() -> int | None:
    """Return the most bytes that this process has had, None where the system does not tell (Windows)."""
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
