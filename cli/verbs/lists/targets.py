"""`qir targets`: the hardware that networks can be quantized for."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from qir.cli.answers import Answer

if TYPE_CHECKING:
    from qir.backends.costs.target import Target
    from qir.support.terminal import Terminal


def targets(
    name: Annotated[str | None, typer.Argument(help="Target to show: its name, or a JSON file.")] = None,
    schema: Annotated[bool, typer.Option("--schema", help="Print the JSON Schema of target files.")] = False,
) -> Answer:
    """List the targets that `--target` can name, or show one: widths, pairs, memories, cost model, and its sources.

    qir targets

    qir targets npu-148

    qir targets --schema > target.schema.json
    """
    from qir.backends.costs.target import load_target, target_names, target_schema

    if schema:
        found = target_schema()
        return Answer(found, lambda terminal: terminal.print_json(data=found))
    if name is not None:
        target = load_target(name)
        return Answer(target.model_dump(mode="json", exclude_defaults=True), partial(_show, target))
    known = [load_target(each) for each in target_names()]
    return Answer([_entry(target) for target in known], partial(_list, known))


def _entry(target: Target) -> dict[str, object]:
    kept = ("name", "description", "illustrative", "weight_widths", "activation_widths", "pairs")
    return {**target.model_dump(mode="json", include=set(kept)), "cost_model": target.cost.kind}


def _list(known: list[Target], terminal: Terminal) -> None:
    from rich.table import Column, Table

    table = Table(Column("target", no_wrap=True), "weights", "activations", "cost model", "description")
    for target in known:
        note = "Illustrative. " if target.illustrative else ""
        widths = (target.weight_widths, target.activation_widths)
        table.add_row(target.name, *map(widths_text, widths), target.cost.kind, note + target.description)
    terminal.print(table)


def _show(target: Target, terminal: Terminal) -> None:
    pairs = "every combination" if target.pairs is None else ", ".join(f"{a}/{w}" for a, w in target.pairs)
    lines = {
        "target": target.name + (" (illustrative: no such chip was measured)" if target.illustrative else ""),
        "what": target.description,
        "weights": f"{widths_text(target.weight_widths)} bits",
        "activations": f"{widths_text(target.activation_widths)} bits",
        "pairs": f"{pairs} (activation/weight bits)",
        "memories": ", ".join(f"{memory.name}: {memory.bits_per_cycle:g} bits a cycle" for memory in target.memories),
        "clock": "unknown: costs are in cycles" if target.clock_hz is None else f"{target.clock_hz / 1e6:g} MHz",
        "free ops": ", ".join(target.fused_ops) or "none",
        "cost model": target.cost.kind,
    }
    lines |= {f"  {name}": str(value) for name, value in target.cost.parameters.items()}
    lines |= {"profile": target.export.profile}
    for label, text in lines.items():
        terminal.print(f"{label:16}{text}", soft_wrap=True)
    for key, source in target.sources.items():
        terminal.print(f"source of {key}: {source}", soft_wrap=True)


def widths_text(widths: tuple[int, ...]) -> str:
    """Write widths in bits: `1-8` for a whole range of them, else `2, 4, 8`."""
    whole = len(widths) > 2 and widths == tuple(range(widths[0], widths[-1] + 1))
    return f"{widths[0]}-{widths[-1]}" if whole else ", ".join(map(str, widths))
