"""What is proven of a quantized network for all inputs: sums, requantization and saturation, step by step.

Nothing is run on data. Sums are bounded channel by channel from the weights and the codes that the input can hold;
whether two arithmetics of requantization give equal codes is decided for every integer in between
(`qir.passes.exporting.guide.differences`), for pairs of operands by computing all of them.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from qir.backends.integer.operators import operator_of
from qir.backends.integer.reference import QUANTIZE
from qir.guide import Guide, read_guide
from qir.module import Module
from qir.passes.exporting.guide.deciding import Decision, Numbers, decide
from qir.passes.exporting.guide.reader import GuideReader
from qir.passes.exporting.guide.trace import trace_network
from qir.passes.exporting.guide.traced import Trace
from qir.passes.infrastructure.contract import AnalysisCache
from qir.passes.lowering.saturation.layers import exactness
from qir.passes.raising import raise_quantized


@dataclass(frozen=True)
class StepProof:
    """What holds of a result of a step, whatever the network's inputs are.

    Attributes:
        name, op: of the node.
        tensor: the result.
        decision: its sums, and where its codes differ between arithmetics.
        saturates: whether x86 CPUs without VNNI can clip its products; None where no 8-bit kernel computes it.
    """

    name: str
    op: str
    tensor: str
    decision: Decision
    saturates: bool | None = None

    @property
    def wraps(self) -> bool:
        """Whether a sum can leave int32."""
        return self.decision.bits is not None and self.decision.bits > 32


@dataclass(frozen=True)
class AllInputsProof:
    """What holds of a network, whatever its inputs are.

    Attributes:
        steps: every result that is requantized, in order.
        islands: names of the steps that no integers describe: nothing is proven of those.
        saturating: names of the layers whose products x86 CPUs without VNNI can clip.
        seconds: how long it took.
        raised: whether the file's operators were read as fake-quant nodes first.
        declared: whether the file itself says that it is exact only with VNNI (or ARM).
    """

    steps: tuple[StepProof, ...]
    islands: tuple[str, ...]
    saturating: tuple[str, ...]
    seconds: float
    raised: bool = False
    declared: bool = False

    @property
    def integers(self) -> int:
        """Integers and pairs of codes that were decided."""
        return sum(step.decision.integers for step in self.steps)

    @property
    def wraps(self) -> tuple[str, ...]:
        """Names of the layers whose sums can leave int32."""
        return tuple(step.name for step in self.steps if step.wraps)

    @property
    def undecided(self) -> tuple[StepProof, ...]:
        """Steps of which something is not proven."""
        return tuple(step for step in self.steps if step.decision.undecided)

    @property
    def arithmetics(self) -> tuple[str, ...]:
        """Names of the arithmetics that were held against float32."""
        return tuple(dict.fromkeys(name for step in self.steps for name in step.decision.differences))

    @property
    def holds(self) -> bool:
        """Whether no sum wraps, and none saturates but in a file that says so itself."""
        return not self.wraps and (not self.saturating or self.declared)

    def decided(self, arithmetic: str) -> int:
        """Return at how many integers an arithmetic was held against float32."""
        return sum(step.decision.integers for step in self.steps if arithmetic in step.decision.differences)

    def differing(self, arithmetic: str) -> int:
        """Return at how many integers the codes of an arithmetic differ from those of float32."""
        found = (step.decision.differences.get(arithmetic) for step in self.steps)
        return sum(one.count for one in found if one is not None)


def guide_beside(model: Path) -> tuple[Guide | None, bytes]:
    """Return the guide next to an exported file and the content of its weights file; None and nothing without one.

    Raises:
        QirError: the guide cannot be read, or is not that of the file.
    """
    path = model.with_name(model.name.removesuffix(".onnx").removesuffix(".quant") + ".guide.json")
    if not path.is_file():
        return None, b""
    guide = read_guide(path)
    weights = path.with_name(Path(guide.weights_file).name)
    return (guide, weights.read_bytes()) if weights.is_file() else (None, b"")


def prove_all_inputs(module: Module, guide: Guide | None = None, weights: bytes = b"") -> AllInputsProof:
    """Return what holds of a network for all inputs.

    Args:
        module: a network with calibrated fake-quant nodes, or an exported file, also of another tool.
        guide: of the same export: its multipliers and thresholds are held against the file's own arithmetic too.
        weights: content of the guide's weights file.

    Raises:
        QirError: the sizes of the network are not known, or no integers compute it.
    """
    begun = time.perf_counter()
    trace, raised = _traced(module)
    layers = {
        found.layer: not found.proven for found in exactness(trace.module if module.graph.fake_quants() else module)
    }
    described = {} if guide is None else _described(GuideReader(guide, weights))
    steps = tuple(
        StepProof(
            step.node.label,
            step.node.op,
            output.tensor.name,
            decide(trace, step, output, described.get(output.tensor.name)),
            layers.get(step.node.label),
        )
        for step in trace.steps
        for output in step.outputs
        if output.pending is not None and output.tensor.element == "codes"
    )
    islands = tuple(step.node.label for step in trace.steps if step.kind in ("float", "control-flow"))
    declared = module.metadata.get("qir.exact_on") == "vnni-or-arm"
    saturating = tuple(name for name, wrong in layers.items() if wrong)
    return AllInputsProof(steps, islands, saturating, time.perf_counter() - begun, raised, declared)


def _traced(module: Module) -> tuple[Trace, bool]:
    """Return the record of a network, and whether its operators were raised first."""
    plain = any(node.op == QUANTIZE for node in module.graph)
    if module.graph.fake_quants() or (plain and all(operator_of(node) is None for node in module.graph)):
        return trace_network(module, AnalysisCache()), False
    return trace_network(raise_quantized(module.clone()), AnalysisCache()), True


def _described(reader: GuideReader) -> dict[str, Numbers]:
    """Return what a guide gives for the results of its steps, by tensor."""
    layers, found = {layer.name: layer for layer in reader.guide.layers}, {}
    for step in reader.guide.steps:
        rows = layers[step.layer].thresholds if step.layer and len(step.outputs) == 1 else None
        for output in step.outputs:
            if output.multiplier is None:
                continue
            numbers = [reader.integers(line) for line in (*output.multiplier.mantissa, output.multiplier.shift)]
            values = None if rows is None else reader.stored(rows.packed) + rows.low_sum
            found[output.tensor] = Numbers(numbers[:-1], numbers[-1], values, 0 if rows is None else rows.low_code)
    return found
