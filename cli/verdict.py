"""What the shell says of a file that was held against the integer reference: at most a screen, or all of it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table

    from qir.module import Module
    from qir.passes.exporting.all_inputs import AllInputsProof, StepProof
    from qir.passes.exporting.products import ProductCheck
    from qir.passes.parity.compare import PairReport, ParityReport
    from qir.passes.parity.judging.pair import PairLayer
    from qir.passes.parity.layers import LayerParity
    from qir.support.terminal import Terminal

_LAYERS, _REASONS, _NAMES, _WIDTH = 8, 4, 3, 40
"""Lines of layers, lines of reasons, names in a line, and characters of a name, that fit a screen."""

_LABELS = {"no-vnni": "x86 without VNNI", "precise": "precise (x64quantprecision=1)"}


def print_verdict(report: ParityReport, *, everything: bool = False) -> None:
    """Print the layers that differ, worst first, what each engine computes, what is not covered, and the verdict.

    Args:
        report: what was compared.
        everything: print every layer in order, and every name.
    """
    from qir.support.terminal import Terminal

    console = Terminal(soft_wrap=True)
    engines = [name for name in report.first if name not in report.refused]
    layers = list(report.layers) if everything else _worst(report, engines)
    shown = layers if everything else layers[:_LAYERS]
    if shown:
        _print_table(console, _layer_table(report, shown, engines, everything=everything))
    if len(shown) < len(layers):
        console.print(f"… {len(layers) - len(shown)} more layers with differences (--all)")
    _print_table(console, _engine_table(report, engines))
    for name, reason in report.refused.items():
        console.print(f"{name}: refused: {reason}")
    lines = list(_remarks(report, everything=everything))
    for line in lines if everything else lines[:_REASONS]:
        console.print(line)
    if len(lines) > _REASONS and not everything:
        console.print(f"… {len(lines) - _REASONS} more remarks (--all)")
    console.print(_verdict(report), style="bold")


def print_products(found: ProductCheck) -> None:
    """Print how many results of products with weights in blocks differ from what their codes give, and which."""
    from qir.support.terminal import Terminal

    console = Terminal(soft_wrap=True)
    floats = f", {len(found.in_float)} of them in float on this CPU" if found.in_float else ""
    console.print(
        f"{found.products} products{floats}: {found.wrong:,} of {found.elements:,} results differ from what their "
        "codes give"
    )
    for sentence in found.refusals[:_REASONS]:
        console.print(f"  {sentence}")


def print_proof(proof: AllInputsProof, console: Terminal, *, everything: bool = False) -> None:
    """Print what holds of a network for all inputs.

    Args:
        proof: what was decided.
        console: where to.
        everything: print every step in order, not those alone of which something can be said against.
    """
    names = proof.arithmetics
    steps = proof.steps if everything else [step for step in proof.steps if _worth_telling(step)]
    if steps:
        _print_table(console, _proof_table(steps if everything else steps[:_LAYERS], names))
    if not everything and len(steps) > _LAYERS:
        console.print(f"… {len(steps) - _LAYERS} more steps (--all)")
    widest = max((step.decision.bits or 0 for step in proof.steps), default=0)
    console.print(f"sums: up to {widest} bits, {_names(proof.wraps, everything) or 'none'} can leave int32")
    for name in names:
        count = proof.differing(name)
        said = f"differ from float32's at {count:,}" if count else "equal float32's at all"
        console.print(f"{name}: codes {said} of {proof.decided(name):,} integers that sums can be")
    console.print(f"x86 CPUs without VNNI: {_names(proof.saturating, everything) or 'no layer'} can clip products")
    if proof.undecided:
        console.print(f"undecided: {_names([step.name for step in proof.undecided], everything)}")
        console.print(f"  {proof.undecided[0].name}: {proof.undecided[0].decision.undecided}")
    if proof.islands:
        console.print(f"on floats, nothing proven: {_names(proof.islands, everything)}")
    if proof.raised:
        console.print("the file's operators were read as quantizers first")
    console.print(f"proven for all inputs: {len(proof.steps)} steps in {proof.seconds:.1f} s", style="bold")


def _worth_telling(step: StepProof) -> bool:
    differ = any(found.count for found in step.decision.differences.values())
    return differ or step.wraps or bool(step.saturates) or bool(step.decision.undecided)


def _proof_table(steps: Iterable[StepProof], names: Iterable[str]) -> Table:
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for column in ("step", "sums", "bits", "integers", *(f"{name} differs" for name in names), "first"):
        table.add_column(column, justify="left" if column in ("step", "first") else "right", no_wrap=True)
    for step in steps:
        found, first = step.decision, ""
        for name, one in found.differences.items():
            if one.first is not None:
                channel, integer, float32, other = one.first
                first = f"channel {channel}, {integer:,}: float32 {float32}, {name} {other}"
                break
        table.add_row(
            step.name if len(step.name) <= _WIDTH else "…" + step.name[1 - _WIDTH :],
            "" if found.sums is None else f"{found.sums[0]:,} to {found.sums[1]:,}",
            "" if found.bits is None else str(found.bits),
            f"{found.integers:,}",
            *(f"{found.differences[name].count:,}" if name in found.differences else "" for name in names),
            first,
        )
    return table


def print_pair(module: Module, pair: str, data: Any) -> PairReport:
    """Print what two executors of a network compute differently.

    Args:
        module: the network.
        pair: names of the executors, separated by a comma.
        data: samples; random ones without them.

    Returns:
        What differs.

    Raises:
        QirError: not two names, or as `compare_two`.
    """
    from qir.errors import QirError
    from qir.passes.parity.compare import compare_two
    from qir.support.terminal import Terminal

    names = [name.strip() for name in pair.split(",")]
    if len(names) != 2:
        raise QirError(f"--pair {pair!r}: expected two names of executors, such as plain,fused")
    report = compare_two(module, names[0], names[1], data)
    found, layers = report.differences, {layer.value: layer for layer in report.layers}
    flips = "" if found.flips is None else f", {found.flips} of {found.samples:,} decisions"
    console = Terminal(soft_wrap=True)
    console.print(
        f"{names[0]} and {names[1]} differ in {sum(found.mismatches.values()):,} of {found.codes:,} codes, "
        f"{found.unequal:,} of {found.elements:,} outputs (by {found.largest:.3g} at most){flips}"
    )
    for name, count in list(found.mismatches.items())[:_LAYERS]:
        console.print(f"  {name}: {count:,} codes{_explained(layers.get(name))}")
    return report


def _explained(layer: PairLayer | None) -> str:
    """Return why codes of two executors differ, in parentheses; empty where nothing judged them."""
    if layer is None:
        return ""
    parts = [(layer.ties, "rounding ties"), (layer.saturated, "clipped sums"), (layer.inherited, "from other codes")]
    parts += [(faults, f"not what {name}'s own codes give") for name, faults in layer.faults.items()]
    return " (" + ", ".join(f"{count:,} {reason}" for count, reason in parts if count) + ")"


def _worst(report: ParityReport, engines: list[str]) -> list[LayerParity]:
    """Return layers with differences: those with most faults first, then those that clip, then those that differ."""

    def rank(layer: LayerParity) -> tuple[int, ...]:
        faults = sum(layer.faults(name) for name in engines if name not in ("dyadic", "no-vnni"))
        return -faults, -layer.mismatches.get("no-vnni", 0), -sum(layer.mismatches.values())

    return sorted((layer for layer in report.layers if any(layer.mismatches.values())), key=rank)


def _layer_table(report: ParityReport, layers: list[LayerParity], engines: list[str], *, everything: bool) -> Table:
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    shown = [name for name in engines if everything or report.differ(name)]
    noisy = any(layer.sqnr is not None for layer in layers)
    for column in ("layer", "kernel", "codes", *shown, *(["SQNR dB"] if noisy else [])):
        table.add_column(column, justify="left" if column in ("layer", "kernel") else "right", no_wrap=True)
    for layer in layers:
        name = layer.node if everything or len(layer.node) <= _WIDTH else "…" + layer.node[1 - _WIDTH :]
        wrong = [
            f"{layer.mismatches[engine]:,}" + (f" (±{layer.largest[engine]})" if layer.mismatches[engine] else "")
            for engine in shown
        ]
        noise = [("" if layer.sqnr is None else f"{layer.sqnr:.1f}")] if noisy else []
        table.add_row(name, layer.kernel, f"{layer.codes:,}", *wrong, *noise)
    return table


def _engine_table(report: ParityReport, engines: list[str]) -> Table:
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for column in ("engine", "codes differ", "of", "ties", "faults", "decisions", "first"):
        table.add_column(column, justify="left" if column in ("engine", "first") else "right", no_wrap=True)
    for name in engines:
        variant = name in ("dyadic", "no-vnni", "power-of-two")
        first, flips = report.first[name], report.argmax_flips.get(name)
        table.add_row(
            _LABELS.get(name, name),
            f"{report.differ(name):,}",
            f"{report.codes:,}",
            "" if variant else f"{report.ties(name):,}",
            "" if variant else f"{report.faults(name):,}",
            "" if flips is None else f"{flips:,} of {report.samples:,}",
            "" if first is None else first.place,
        )
    return table


def _remarks(report: ParityReport, *, everything: bool) -> Iterable[str]:
    """Yield what is not covered and why, and what the file was made for."""
    computed = [layer for layer in report.layers if layer.kernel != "border"]
    integer = sum(layer.kernel == "integer" for layer in computed)
    yield f"on integer kernels in ONNX Runtime: {integer} of {len(computed)} tensors of codes"
    if report.default == "unfused":
        yield "made for ONNX Runtime without QDQ fusion (session.disable_quant_qdq=1)"
    first = report.first.get(report.default)
    if first is not None:
        yield f"{report.default}: {first.node}: {first.reason}"
    for name, off in report.outputs_off.items():
        yield f"{name}: {off:,} elements of the outputs are off what its own codes give"
    if report.saturating:
        yield f"x86 CPUs without VNNI can saturate in {_names(report.saturating, everything)}"
    reasons: dict[str, list[LayerParity]] = {}
    for layer in report.layers:
        if not layer.promised:
            reasons.setdefault(layer.reason or "its values are floats in the reference", []).append(layer)
    for reason, layers in sorted(reasons.items(), key=lambda item: -sum(layer.codes for layer in item[1])):
        codes = sum(layer.codes for layer in layers)
        yield f"up to rounding ties: {codes:,} codes: {reason}: {_names([x.node for x in layers], everything)}"
    if report.float_nodes:
        yield f"on floats in the integer reference: {_names(report.float_nodes, everything)}"
    if report.requantization != "float32":
        yield f"made for hardware that requantizes with {report.requantization} multipliers"
    if report.exact:
        yield "power-of-two scales: equal codes are promised of every setting"


def _names(names: Iterable[str], everything: bool) -> str:
    found = list(dict.fromkeys(names))
    shown = found if everything else [name[-_WIDTH:] for name in found[:_NAMES]]
    return ", ".join(shown) + (f" and {len(found) - _NAMES} more" if len(found) > len(shown) else "")


def _verdict(report: ParityReport) -> str:
    from qir.passes.parity.compare import VERDICTS

    says = report.verdict + (", as the file says" if report.verdict == VERDICTS[1] and report.declared else "")
    return f"bit-exact: {report.covered:,} of {report.codes:,} codes covered: {says}"


def _print_table(console: Terminal, table: Table) -> None:
    """Print a table as wide as it needs to be."""
    from rich.measure import Measurement

    from qir.support.terminal import Terminal

    needed = Measurement.get(console, console.options.update(max_width=1000), table).maximum
    Terminal(width=max(console.width, needed)).print(table)
