"""`qir cost`: what a network costs, node by node and width by width, on hardware described in a file."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from qir.cli.options import TargetName
from qir.errors import QirError, TargetError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qir.backends.costs.tables.table import CostTable
    from qir.backends.costs.target import Target
    from qir.module import Module
    from qir.policy import Bits
    from qir.support.terminal import Terminal

MAXIMUM_COLUMNS = 4
FILE_COLUMNS = 160
"""Width of what is printed into a file or pipe, where `COLUMNS` does not say otherwise."""

REFEREES = ("vela",)


def cost(
    model: Annotated[Path | None, typer.Argument(help="ONNX file: float, with fake-quant nodes, or quantized.")] = None,
    target: TargetName = "npu-148",
    policy: Annotated[Path | None, typer.Option("--policy", "-p", help="JSON file: quantizer → bits.")] = None,
    shape: Annotated[
        list[str] | None, typer.Option("--shape", help="Shape of an input, `name=1,3,224,224`; may be repeated.")
    ] = None,
    batch: Annotated[int, typer.Option("--batch", help="Images, where the first dimension is unknown.")] = 1,
    explain: Annotated[str | None, typer.Option("--explain", help="Node to explain, or `all`.")] = None,
    referee: Annotated[
        str | None, typer.Option("--referee", help="Compiler to compare with: `vela` (extra `vela`).")
    ] = None,
    export: Annotated[Path | None, typer.Option("--export", help="Delay table to write: .csv, .json or .npy.")] = None,
    imported: Annotated[
        Path | None,
        typer.Option(
            "--import", help="Delay table in any layout (.csv, .json, HAQ's .npy, HAWQ-V3's .json), for --export."
        ),
    ] = None,
    without: Annotated[
        list[str] | None, typer.Option("--without", help="Layer that the imported table leaves out; may be repeated.")
    ] = None,
    measure: Annotated[Path | None, typer.Option("--measure", help="Time each layer, write this delay table.")] = None,
    fit: Annotated[
        Path | None, typer.Option("--fit", help="Delay table of your hardware to fit the target's parameters to.")
    ] = None,
    save_target: Annotated[Path | None, typer.Option("--save-target", help="Where to write the fitted target.")] = None,
    list_targets: Annotated[bool, typer.Option("--list", help="Show the shipped targets.")] = False,
    schema: Annotated[bool, typer.Option("--schema", help="Print the JSON Schema of target files.")] = False,
) -> None:
    """Cycles, energy and bytes of every node of a network, and what bounds it.

    qir cost model.onnx --target bismo-16x16x256 --explain all

    qir cost model.onnx --target ethos-u55-128-like --referee vela

    qir cost model.onnx --measure mine.csv; qir cost --target my-npu.json --fit mine.csv --save-target fitted.json

    qir cost resnet18.onnx --import ILP.json --without conv1 --without fc --export nvidia-t4.csv
    """
    console = _console()
    if list_targets:
        from qir.cli.cost_report import print_targets

        print_targets(console)
    elif schema:
        from qir.backends.costs.target import target_schema

        typer.echo(json.dumps(target_schema(), indent=2))
    elif imported is not None:
        _import(None if model is None else _load(model, shape, batch), imported, without or [], export)
    elif fit is not None:
        _fit(console, None if model is None else _load(model, shape, batch), target, fit, save_target)
    elif model is None:
        raise QirError("qir cost: no model: give an ONNX file, or --list, or --schema")
    elif measure is not None:
        _measure(console, _load(model, shape, batch), batch, measure)
    else:
        _Costing(_load(model, shape, batch), target, policy, batch).show(console, explain, referee, export)


def _console() -> Terminal:
    from qir.support.terminal import Terminal

    console = Terminal()
    return console if console.is_terminal or "COLUMNS" in os.environ else Terminal(width=FILE_COLUMNS)


def _load(path: Path, shapes: list[str] | None, batch: int) -> Module:
    import qir

    if batch < 1:
        raise QirError(f"--batch {batch}: expected at least 1")
    module = qir.load(path)
    _set_shapes(module, shapes or [], batch)
    _simplify(module)
    return module


def _simplify(module: Module) -> None:
    """Bring a float network into the form that quantization starts from, a quantized one into fake-quant form."""
    from qir.passes import run_passes
    from qir.passes.simplify.canonicalize import SIMPLIFY

    for pipeline in ("raise-quantized", SIMPLIFY):
        if not module.graph.fake_quants():
            run_passes(module, pipeline)


def _import(module: Module | None, source: Path, without: list[str], export: Path | None) -> None:
    """Read a delay table, give its layers the network's names where they have none, write it."""
    from qir.backends.costs.layers.layer_shapes import products_of
    from qir.backends.costs.tables.delay_files import import_delays
    from qir.support.nearest import nearest

    if export is None:
        raise QirError("qir cost --import: nowhere to write: give --export table.csv (or .json, .npy)")
    table = import_delays(source)
    if module is not None and not table.named:
        names = list(products_of(module))
        for name in without:
            if name not in names:
                raise QirError(f"--without {name!r}: the network has no such layer: {nearest(name, names)}")
        table = table.renamed([name for name in names if name not in without])
    table.write(export)


def _fit(console: Terminal, module: Module | None, name: str, file: Path, save: Path | None) -> None:
    from qir.backends.costs.fitting import fit
    from qir.cli.cost_report import print_fit

    found = fit(name, file, module)
    print_fit(console, found)
    if save is not None:
        found.target.save(save)


def _measure(console: Terminal, module: Module, batch: int, file: Path) -> None:
    from qir.backends.costs.measured import measure_layers
    from qir.backends.costs.tables.delay_files import check_layout
    from qir.cli.cost_report import print_lines

    check_layout(file)
    table, lines = measure_layers(module, batch=batch)
    table.write(file)
    print_lines(console, lines)


@dataclass
class _Costing:
    """One network on one target."""

    module: Module
    name: str
    policy: Path | None
    batch: int

    def show(self, console: Terminal, explained: str | None, referee: str | None, export: Path | None) -> None:
        """Print the table, and what was asked for next to it."""
        from qir.backends.costs.building import cost_table
        from qir.backends.costs.tables.delay_files import delays_of
        from qir.backends.costs.target import load_target
        from qir.cli.cost_report import explanations, print_lines, print_table

        target = load_target(self.name)
        if referee is not None:
            self._referee(console, target, referee)
            return
        table = cost_table(self.module, target, batch=self.batch)
        explained_lines = [] if explained is None else explanations(table, explained)
        if export is not None:
            delays_of(table).write(export)
        print_table(console, table, target, self._policies(table, target))
        print_lines(console, explained_lines)

    def _referee(self, console: Terminal, target: Target, name: str) -> None:
        from qir.backends.costs.building import cost_table
        from qir.backends.vela.referee import referee
        from qir.cli.cost_report import print_referee
        from qir.fake_quant import quantizers
        from qir.passes import run_passes
        from qir.support.nearest import nearest

        if name not in REFEREES:
            raise QirError(f"--referee {name!r} is unknown: {nearest(name, REFEREES)}")
        run_passes(self.module, "fold-constants,fold-batchnorm")
        table = cost_table(self.module, target)
        chosen = next(iter(self._policies(table, target).values()))
        found = quantizers(self.module.graph)
        for quantizer, bits in chosen.items() if self.policy is not None else ():
            found[quantizer].bits = bits
        print_referee(console, target, referee(self.module, target, table, chosen))

    def _policies(self, table: CostTable, target: Target) -> dict[str, dict[str, Bits]]:
        """The policies to show: the file's, else uniform ones."""
        if self.policy is None:
            uniform = {f"{a}/{w}": table.uniform(a, w) for a, w in _shown_pairs(target)}
            different = {tuple(bits.values()): name for name, bits in reversed(uniform.items())}
            if table.widths and all(len(widths) == 1 for widths in table.widths.values()):
                return {"as in the file": next(iter(uniform.values()))}
            return {name: uniform[name] for name in uniform if name in different.values()}
        from qir.fake_quant import policy_of
        from qir.support.json_text import parse_json

        try:
            given = parse_json(self.policy.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            message = f"policy {self.policy}: cannot be read: {error}; expected JSON with quantizer → bits"
            raise QirError(message) from error
        if not isinstance(given, dict):
            raise TargetError(f"policy {self.policy}: found {type(given).__name__}; expected quantizer → bits")
        base: dict[str, Bits] = dict(policy_of(self.module.graph))
        bits = {key: tuple(value) if isinstance(value, list) else value for key, value in given.items()}
        table.codes([{key: value for key, value in (base | bits).items() if isinstance(value, int)}])
        return {"policy": base | bits}


def _shown_pairs(target: Target) -> list[tuple[int, int]]:
    """The (activation, weight) widths to show: equal ones where there is a choice; of many the powers of two."""
    pairs = sorted(target.operand_rules().legal_pairs(), reverse=True)
    if target.pairs is None and len(target.activation_widths) > 1:
        pairs = [(a, w) for a, w in pairs if a == w] or pairs
    if len(pairs) > MAXIMUM_COLUMNS:
        pairs = [pair for pair in pairs if all(bits & (bits - 1) == 0 for bits in pair)] or pairs
    return pairs[:MAXIMUM_COLUMNS]


def _set_shapes(module: Module, shapes: list[str], batch: int) -> None:
    """Give inputs the shapes of `name=1,3,224,224`, and `batch` images to those that leave their number open.

    A size that had a name (a symbol) takes its number wherever the name occurs; all others are inferred anew.

    Raises:
        QirError: another form, or no such input; names the nearest.
    """
    from qir.backends.costs.layers.open_sizes import fix_sizes, taken_sizes
    from qir.support.nearest import nearest
    from qir.types import TensorType

    inputs = {value.name: value for value in module.graph.inputs}
    given: dict[str, tuple[int, ...]] = {}
    for text in shapes:
        name, _, sizes = text.partition("=")
        if name not in inputs:
            raise QirError(f"--shape {text!r}: the network has no input {name!r}: {nearest(name, inputs)}")
        kind = inputs[name].type
        given[name] = _sizes(text, sizes, kind.shape if isinstance(kind, TensorType) else None)
    fix_sizes(module, given)
    fix_sizes(module, taken_sizes(module, batch))


def _sizes(text: str, sizes: str, declared: Sequence[object] | None) -> tuple[int, ...]:
    """The sizes of `1,3,224,224`; as many as the input has dimensions.

    Raises:
        QirError: they are not positive numbers, or another number of them.
    """
    try:
        dims = tuple(int(size) for size in sizes.split(","))
    except ValueError as error:
        raise QirError(f"--shape {text!r}: expected name=1,3,224,224") from error
    if min(dims) < 1:
        raise QirError(f"--shape {text!r}: size {min(dims)}; expected sizes of at least 1")
    if declared is not None and len(declared) != len(dims):
        known = ",".join(map(str, declared))
        raise QirError(f"--shape {text!r}: {len(dims)} sizes; the input has {len(declared)} dimensions ({known})")
    return dims


def register(app: typer.Typer) -> None:
    """Add the verb to the command."""
    app.command("cost")(cost)
