"""`qir cost`: what a network costs, node by node and width by width, on hardware described in a file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from qir.errors import QirError, TargetError

if TYPE_CHECKING:
    from qir.backends.cost_table import CostTable
    from qir.backends.target import Target
    from qir.module import Module
    from qir.policy import Bits

MAXIMUM_COLUMNS = 6


def cost(
    model: Annotated[Path | None, typer.Argument(help="ONNX file, float or with fake-quant nodes.")] = None,
    target: Annotated[str, typer.Option("--target", "-t", help="Shipped target or JSON file.")] = "npu-148",
    policy: Annotated[Path | None, typer.Option("--policy", "-p", help="JSON file: quantizer → bits.")] = None,
    shape: Annotated[
        list[str] | None, typer.Option("--shape", help="Shape of an input, `name=1,3,224,224`; may be repeated.")
    ] = None,
    batch: Annotated[int, typer.Option("--batch", help="Images, where the first dimension is unknown.")] = 1,
    explain: Annotated[str | None, typer.Option("--explain", help="Layer to explain, or `all`.")] = None,
    export: Annotated[Path | None, typer.Option("--export", help="Delay table to write: .csv, .json or .npy.")] = None,
    measure: Annotated[Path | None, typer.Option("--measure", help="Time each layer, write this delay table.")] = None,
    list_targets: Annotated[bool, typer.Option("--list", help="Show the shipped targets.")] = False,
    schema: Annotated[bool, typer.Option("--schema", help="Print the JSON Schema of target files.")] = False,
) -> None:
    """Cycles, energy and bytes of every node of a network, and what bounds it."""
    if list_targets:
        _show_targets()
        return
    if schema:
        from qir.backends.target import target_schema

        typer.echo(json.dumps(target_schema(), indent=2))
        return
    if model is None:
        raise QirError("qir cost: no model: give an ONNX file, or --list, or --schema")
    _cost_model(model, target, policy, shape or [], batch, explain, export, measure)


def _cost_model(
    path: Path,
    name: str,
    policy: Path | None,
    shapes: list[str],
    batch: int,
    explained: str | None,
    export: Path | None,
    measure: Path | None,
) -> None:
    from rich.console import Console

    import qir
    from qir.backends.target import load_target

    console = Console()
    module = qir.load(path)
    _set_shapes(module, shapes)
    if measure is not None:
        from qir.backends.measured import measure_layers

        table_of_times, lines = measure_layers(module, batch=batch)
        table_of_times.write(measure)
        for line in lines:
            console.print(line, markup=False, highlight=False)
        return
    found = load_target(name)
    table = found.cost_model().table(module, found, batch=batch)
    if export is not None:
        from qir.backends.delay_table import delays_of

        delays_of(table).write(export)
    _print_table(table, found, _policies(table, found, module, policy))
    for line in explanations(table, explained):
        console.print(line, markup=False, highlight=False)


def _show_targets() -> None:
    from rich.console import Console
    from rich.table import Table

    from qir.backends.target import load_target, target_names

    shown = Table("target", "weights", "activations", "cost model", "description")
    for name in target_names():
        found = load_target(name)
        note = "Illustrative. " if found.illustrative else ""
        widths = (found.weight_widths, found.activation_widths)
        shown.add_row(name, *(",".join(map(str, w)) for w in widths), found.cost.kind, note + found.description)
    Console().print(shown)


def _set_shapes(module: Module, shapes: list[str]) -> None:
    """Give inputs the shapes of `name=1,3,224,224` and infer the rest.

    Raises:
        QirError: another form, or no such input; names the nearest.
    """
    from qir.backends.cost_models.validation import nearest
    from qir.ops import infer_graph
    from qir.types import TensorType

    inputs = {value.name: value for value in module.graph.inputs}
    for text in shapes:
        name, _, sizes = text.partition("=")
        if name not in inputs:
            raise QirError(f"--shape {text!r}: the network has no input {name!r}: {nearest(name, inputs)}")
        try:
            dims = tuple(int(size) for size in sizes.split(","))
        except ValueError as error:
            raise QirError(f"--shape {text!r}: expected name=1,3,224,224") from error
        kind = inputs[name].type
        if isinstance(kind, TensorType):
            inputs[name].type = TensorType(kind.element, dims)
    if shapes:
        infer_graph(module)


def _policies(table: CostTable, target: Target, module: Module, file: Path | None) -> dict[str, dict[str, Bits]]:
    """The policies to show: the file's, else the widest pairs of the target, uniformly."""
    if file is not None:
        from qir.fake_quant import policy_of

        try:
            given = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise QirError(f"policy {file}: cannot be read: {error}; expected JSON with quantizer → bits") from error
        base: dict[str, Bits] = dict(policy_of(module.graph))
        bits = {key: tuple(value) if isinstance(value, list) else value for key, value in given.items()}
        table.codes([{key: value for key, value in (base | bits).items() if isinstance(value, int)}])
        return {"policy": base | bits}
    pairs = sorted(target.operand_rules().legal_pairs(), reverse=True)
    uniform = [(a, w) for a, w in pairs if a == w or target.pairs is not None]
    return {f"{a}/{w}": table.uniform(a, w) for a, w in uniform[:MAXIMUM_COLUMNS]}


def _print_table(table: CostTable, target: Target, policies: dict[str, dict[str, Bits]]) -> None:
    from rich.console import Console
    from rich.table import Table

    from qir.backends.table_reports import critical_path, model_bytes, peak_memory

    console = Console()
    note = " (illustrative)" if target.illustrative else ""
    shown = Table(title=f"{target.name}{note}: cycles, activation/weight bits (what bounds the node)")
    shown.add_column("node")
    shown.add_column("op")
    legal = {}
    for name, bits in policies.items():
        try:
            legal[name] = table.rows(bits)
        except TargetError as error:
            console.print(f"{name}: {error}", markup=False, highlight=False)
    for name in legal:
        shown.add_column(name, justify="right")
    for cells in zip(*legal.values(), strict=True):
        shown.add_row(cells[0].node, cells[0].op, *(f"{cell.cycles:,.0f} ({cell.bound_by})" for cell in cells))
    shown.add_section()
    chosen = [policies[name] for name in legal]
    for label, values in (
        ("cycles", table.cost(chosen, unknown="ignore")),
        ("energy, uJ", table.cost(chosen, "energy_pj", unknown="ignore") / 1e6),
        ("moved, KiB", table.cost(chosen, "total_bytes", unknown="ignore") / 1024),
        ("bit operations, M", table.cost(chosen, "bit_operations", unknown="ignore") / 1e6),
        ("model, KiB", model_bytes(table, chosen) / 1024),
        ("peak activations, KiB", peak_memory(table, chosen) / 1024),
        ("critical path, cycles", [critical_path(table, bits).cycles for bits in chosen]),
    ):
        shown.add_row(label, "", *(f"{value:,.1f}" for value in values))
    if target.clock_hz is not None:
        shown.add_row("ms", "", *(f"{c / target.clock_hz * 1e3:,.4f}" for c in table.cost(chosen, unknown="ignore")))
    console.print(shown)
    for line in (*target.cost_model().notes, *table.facts.notes):
        console.print(f"note: {line}", markup=False, highlight=False)
    if table.unknown:
        listed = ", ".join(table.unknown)
        console.print(f"unknown cost, not in the totals: {listed}: give --shape, or register the op", markup=False)


def explanations(table: CostTable, node: str | None) -> list[str]:
    """Sentences on what bounds one layer (or `all`) at each pair of widths, and where fewer bits stop helping."""
    from qir.backends.table_reports import explain

    if node is None:
        return []
    layers = dict.fromkeys(row.name for row in table if row.part == "layer" and row.known)
    lines = []
    for name in layers if node == "all" else [node]:
        found = explain(table, name)
        lines.append(f"{name}:")
        lines += [
            f"  {a}/{w} bits: {found.cycles[a, w]:,.0f} cycles, bound by {by}" for (a, w), by in found.bound_by.items()
        ]
        lines += [f"  {stop}" for stop in found.stops]
    return lines


def register(app: typer.Typer) -> None:
    """Add the verb to the command."""
    app.command("cost")(cost)
