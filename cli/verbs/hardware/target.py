"""`qir target`: write a description of hardware, check it, measure delays, fit it to them."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from qir.cli.answers import Answer, answering
from qir.cli.networks import Batch, Shapes, load_sized, network
from qir.errors import TargetError

if TYPE_CHECKING:
    from qir.backends.costs.fitting import FitResult
    from qir.support.terminal import Terminal

_TABLE = typer.Argument(help="Delay table: .csv, .json or .npy.", show_default=False)
_FILE = typer.Argument(help="Target: a JSON file, or a shipped name.", show_default=False)
_NETWORK = typer.Option("--network", "-n", help="Network that is costed for the check, a shipped one by its name.")


def group() -> typer.Typer:
    """Return the verb with its subcommands."""
    app = typer.Typer(
        help="Describe hardware of your own: write its file, check it, measure delays, fit it to them.",
        no_args_is_help=True,
        rich_markup_mode="markdown",
    )
    for name, command in (("new", new), ("check", check), ("measure", measure), ("fit", fit), ("import", convert)):
        app.command(name)(answering(command))
    return app


def new(
    file: Annotated[Path, typer.Argument(help="JSON file to write.", show_default=False)],
    like: Annotated[str | None, typer.Option(help="Shipped target to begin with, in place of the smallest.")] = None,
) -> Answer:
    """Write the file of a target: the smallest that works, with invented numbers, for you to replace.

    qir target new my-npu.json

    qir target new my-npu.json --like ethos-u55-128-like
    """
    from qir.backends.costs.smallest import smallest_target
    from qir.backends.costs.target import load_target

    if file.exists():
        raise TargetError(f"{file}: the file exists: give another name, or remove it")
    if file.suffix != ".json":
        raise TargetError(f"{file}: expected the name of a JSON file, such as {file.stem}.json")
    made = smallest_target(file.stem) if like is None else load_target(like).model_copy(update={"name": file.stem})
    made.save(file)
    lines = [
        f"{file}: {made.cost.kind}, weights of {_list(made.weight_widths)} bits, activations of "
        f"{_list(made.activation_widths)} bits; its numbers are "
        + ("invented: replace them by yours" if like is None else f"those of {like}: replace them by yours"),
        f"then: qir target check {file}",
    ]
    return Answer({"file": file, **made.model_dump(mode="json", exclude_defaults=True)}, partial(_print, lines))


def check(
    file: Annotated[str, _FILE],
    model: Annotated[str, _NETWORK] = "residual",
) -> Answer:
    """Read a target, say what is assumed for every key that it leaves out, and cost a network on it.

    Exit code 0: the file can be used; 2: it cannot, and the message names the key.

    qir target check my-npu.json --network model.onnx
    """
    import qir
    from qir.backends.costs.assumed import assumptions
    from qir.backends.costs.checking import checked
    from qir.backends.costs.target import load_target
    from qir.cli.networks import network_path
    from qir.cli.verbs.hardware.cost import simplify

    target = load_target(file)
    module = qir.load(network_path(model))
    simplify(module)
    found, left_out = checked(target, module), assumptions(target)
    record = {"target": target.name, "assumed": left_out, "network": model, **vars(found)}
    lines = [f"{target.name}: can be used"]
    lines += [f"left out: {entry.key}: {entry.assumed}" for entry in left_out]
    lines += [f"{model}: {line}" for line in found.lines()]
    return Answer(record, partial(_print, lines))


def measure(
    model: Annotated[Path, network("Float ONNX file")],
    table: Annotated[Path, _TABLE],
    target: Annotated[
        str, typer.Option("--target", "-t", help="Whose widths are timed: `cpu-onnxruntime` or `cpu-matmul-nbits`.")
    ] = "cpu-onnxruntime",
    shape: Shapes = None,
    batch: Batch = 1,
) -> Answer:
    """Time each layer of a network in ONNX Runtime on this machine, one thread, and write the delays.

    In float and int8; for a target with weights of few bits next to float activations at these widths, as MatMulNBits.

    qir target measure model.onnx cpu-onnxruntime.csv

    qir cost model.onnx --target cpu-onnxruntime

    qir target measure llm.onnx cpu-matmul-nbits.csv --target cpu-matmul-nbits --shape ids=1,1
    """
    from qir.backends.costs.measured import measure_layers
    from qir.backends.costs.tables.delay_files import check_layout
    from qir.backends.costs.target import load_target
    from qir.cli.verbs.hardware.cost import simplify

    check_layout(table)
    module = load_sized(model, shape, batch)
    simplify(module)
    delays, lines = measure_layers(module, batch=batch, target=load_target(target))
    delays.write(table)
    return Answer({"table": table, "delays": _plain(delays.delays)}, partial(_print, lines))


def fit(
    target: Annotated[str, _FILE],
    table: Annotated[Path, _TABLE],
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Where to write the fitted target.")] = None,
    model: Annotated[
        Path | None,
        typer.Option("--network", "-n", help="Network that was measured, where the table holds no shapes."),
    ] = None,
    shape: Shapes = None,
    batch: Batch = 1,
) -> Answer:
    """Fit a target's bandwidth, efficiency and time of a launch to delays that were measured on the hardware.

    qir target fit my-npu.json measured.csv -o fitted.json
    """
    from qir.backends.costs.fitting import fit as fitted
    from qir.cli.networks import network_path
    from qir.cli.verbs.hardware.cost import simplify

    module = None if model is None else load_sized(network_path(str(model)), shape, batch)
    if module is not None:
        simplify(module)
    found = fitted(target, table, module)
    if output is not None:
        found.target.save(output)
    record = {
        "parameters": found.parameters,
        "scale": found.scale,
        "residuals": {name: residual._asdict() for name, residual in found.residuals.items()},
        "target": output,
    }
    return Answer(record, partial(_show_fit, found))


def convert(
    source: Annotated[
        Path,
        typer.Argument(help="Delay table in any layout: .csv, .json, HAQ's .npy, HAWQ-V3's .json.", show_default=False),
    ],
    table: Annotated[Path, _TABLE],
    model: Annotated[
        Path | None, typer.Option("--network", "-n", help="Network whose layers a table without names holds in order.")
    ] = None,
    without: Annotated[
        list[str] | None, typer.Option("--without", help="Layer that the table leaves out; may be repeated.")
    ] = None,
) -> Answer:
    """Turn a delay table of another layout into one that targets read; layers get the network's names.

    qir target import ILP.json nvidia-t4.csv --network resnet18.onnx --without conv1 --without fc
    """
    from qir.backends.costs.layers.layer_shapes import products_of
    from qir.backends.costs.tables.delay_files import import_delays
    from qir.cli.networks import network_path
    from qir.cli.verbs.hardware.cost import simplify
    from qir.support.nearest import nearest

    delays = import_delays(source)
    if model is not None and not delays.named:
        module = load_sized(network_path(str(model)), None, 1)
        simplify(module)
        names = list(products_of(module))
        for name in without or []:
            if name not in names:
                raise TargetError(f"--without {name!r}: the network has no such layer: {nearest(name, names)}")
        delays = delays.renamed([name for name in names if name not in (without or [])])
    delays.write(table)
    lines = [f"{table}: {len(delays.layers)} layers"]
    return Answer({"table": table, "layers": delays.layers}, partial(_print, lines))


def _print(lines: list[str], terminal: Terminal) -> None:
    for line in lines:
        terminal.print(line, soft_wrap=True)


def _show_fit(found: FitResult, terminal: Terminal) -> None:
    from qir.cli.cost_report import print_fit

    print_fit(terminal, found)


def _plain(delays: Any) -> dict[str, dict[str, float]]:
    """Return layer → "weight bits/activation bits" → delay."""
    return {name: {f"{w}/{a}": delay for (w, a), delay in cells.items()} for name, cells in delays.items()}


def _list(widths: tuple[int, ...]) -> str:
    return ", ".join(map(str, widths))
