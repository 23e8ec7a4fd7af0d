"""`qir cost`: what a network costs, node by node and width by width, on hardware described in a file."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from qir.cli.answers import Answer
from qir.cli.networks import Batch, Shapes, load_sized, network
from qir.cli.options import OptionalTarget
from qir.errors import QirError, TargetError

if TYPE_CHECKING:
    from qir.backends.costs.tables.table import CostTable
    from qir.backends.costs.target import Target
    from qir.module import Module
    from qir.policy import Bits
    from qir.support.terminal import Terminal

MAXIMUM_COLUMNS = 4

REFEREES = ("vela",)


def cost(
    model: Annotated[Path, network("ONNX file: float, with fake-quant nodes, or quantized")],
    target: OptionalTarget = None,
    policy: Annotated[Path | None, typer.Option("--policy", "-p", help="JSON file: quantizer → bits.")] = None,
    shape: Shapes = None,
    batch: Batch = 1,
    explain: Annotated[str | None, typer.Option("--explain", help="Node to explain, or `all`.")] = None,
    referee: Annotated[
        str | None, typer.Option("--referee", help="Compiler to compare with: `vela` (extra `vela`).")
    ] = None,
    export: Annotated[Path | None, typer.Option("--export", help="Delay table to write: .csv, .json or .npy.")] = None,
) -> Answer:
    """Return cycles, energy and bytes of every node of a network, and what bounds it; without a target, bit operations.

    qir cost lenet --target bismo-16x16x256 --explain all

    qir cost model.onnx --target ethos-u55-128-like --referee vela
    """
    from qir.backends.costs.target import as_target

    hardware = as_target(target)
    module = load_sized(model, shape, batch)
    simplify(module)
    if target is None:
        hardware = _at_any_width(hardware, module)
    return _Costing(module, hardware, policy, batch).answer(explain, referee, export)


def simplify(module: Module) -> None:
    """Bring a float network into the form that quantization starts from, a quantized one into fake-quant form."""
    from qir.passes import run_passes
    from qir.passes.simplify.canonicalize import SIMPLIFY

    for pipeline in ("raise-quantized", SIMPLIFY):
        if not module.graph.fake_quants():
            run_passes(module, pipeline)


def _at_any_width(target: Target, module: Module) -> Target:
    """Return a target with the widths of a network's quantizers besides its own.

    Without hardware every width is legal.
    """
    from qir.fake_quant import quantizers

    own = {width for quantizer in quantizers(module.graph).values() for width in quantizer.widths}
    widths = tuple(sorted({*target.weight_widths, *target.activation_widths, *own}))
    return target.model_copy(update={"weight_widths": widths, "activation_widths": widths})


@dataclass
class _Costing:
    """One network on one target."""

    module: Module
    target: Target
    policy: Path | None
    batch: int

    def answer(self, explained: str | None, referee: str | None, export: Path | None) -> Answer:
        """Return the table, and what was asked for next to it."""
        from qir.backends.costs.building.builder import cost_table
        from qir.backends.costs.tables.delay_files import delays_of
        from qir.cli.cost_report import explanations

        if referee is not None:
            return self._referee(referee)
        table = cost_table(self.module, self.target, batch=self.batch)
        policies = self._policies(table)
        record = _record(table, self.target, policies)
        lines = [] if explained is None else explanations(table, explained)
        if export is not None:
            delays_of(table).write(export)
        return Answer(record, partial(self._show, table, policies, lines))

    def _show(
        self, table: CostTable, policies: dict[str, dict[str, Bits]], lines: list[str], terminal: Terminal
    ) -> None:
        from qir.cli.cost_report import print_lines, print_table

        print_table(terminal, table, self.target, policies)
        print_lines(terminal, lines)

    def _referee(self, name: str) -> Answer:
        from qir.backends.costs.building.builder import cost_table
        from qir.backends.vela.referee import referee
        from qir.cli.cost_report import print_referee
        from qir.fake_quant import quantizers
        from qir.passes import run_passes
        from qir.support.nearest import nearest

        if name not in REFEREES:
            raise QirError(f"--referee {name!r} is unknown: {nearest(name, REFEREES)}")
        run_passes(self.module, "fold-constants,fold-batchnorm")
        table = cost_table(self.module, self.target)
        chosen = next(iter(self._policies(table).values()))
        found = quantizers(self.module.graph)
        for quantizer, bits in chosen.items() if self.policy is not None else ():
            found[quantizer].bits = bits
        rows = referee(self.module, self.target, table, chosen)
        return Answer(rows, lambda terminal: print_referee(terminal, self.target, rows))

    def _policies(self, table: CostTable) -> dict[str, dict[str, Bits]]:
        """Return the policies to show: the file's, else uniform ones."""
        if self.policy is None:
            uniform = {f"{a}/{w}": table.uniform(a, w) for a, w in _shown_pairs(self.target)}
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
    """Return the (activation, weight) widths to show: equal ones where there is a choice; of many the powers of two."""
    pairs = sorted(target.operand_rules().legal_pairs(), reverse=True)
    if target.pairs is None and len(target.activation_widths) > 1:
        pairs = [(a, w) for a, w in pairs if a == w] or pairs
    if len(pairs) > MAXIMUM_COLUMNS:
        pairs = [pair for pair in pairs if all(bits & (bits - 1) == 0 for bits in pair)] or pairs
    return pairs[:MAXIMUM_COLUMNS]


def _record(table: CostTable, target: Target, policies: dict[str, dict[str, Bits]]) -> dict[str, object]:
    """Return the table for programs: every policy that is legal on the target, its nodes and its totals."""
    from qir.cli.cost_report import totals

    found = {}
    for name, bits in policies.items():
        try:
            rows = table.rows(bits)
        except TargetError:
            if len(policies) == 1:
                raise
            continue
        total = {label: values[0] for label, values in totals(table, target, [bits]).items()}
        found[name] = {"policy": bits, "nodes": rows, "totals": total}
    notes = (*target.cost_model().notes, *table.facts.notes)
    return {"target": target.name, "policies": found, "notes": notes, "unknown": table.reasons}
