"""From a quantized module to its guide and packed weights."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

import qir
from qir.backends.costs.building.builder import cost_table
from qir.backends.costs.layers.cost import Cost
from qir.backends.costs.layers.layer_shapes import layer_names
from qir.backends.costs.tables.table import CostTable
from qir.backends.costs.target import Target, TargetLike, as_target
from qir.backends.integer.requantization import Requantization
from qir.errors import ExportError
from qir.fake_quant import FakeQuant, policy_of
from qir.graph import Graph, Node
from qir.guide import (
    BufferGuide,
    CpuGuide,
    Guide,
    LayerGuide,
    MemoryGuide,
    Provenance,
    RequantizationGuide,
    StoredWeightGuide,
    TensorGuide,
    ThresholdsGuide,
)
from qir.guide_network import CostGuide, PackedTensor
from qir.module import Module
from qir.passes.analysis.arithmetic.layer import LayerArithmetic
from qir.passes.analysis.arithmetic.network import ArithmeticAnalysis, NetworkArithmetic
from qir.passes.analysis.arithmetic.quantizer import QuantizerArithmetic
from qir.passes.analysis.quantized_layers import stored_weights
from qir.passes.exporting.guide.network import NetworkGuide, describe_network
from qir.passes.exporting.guide.weights_file import WeightsFile
from qir.passes.exporting.memory_plan import unknown_sizes
from qir.passes.exporting.requantization import ROUNDING, check_requantization
from qir.passes.infrastructure.contract import AnalysisCache
from qir.passes.lowering.qonnx.thresholds import Arithmetic, layer_thresholds
from qir.policy import Policy
from qir.quantizers.multiples import integer_levels
from qir.types import Dim

MOST_CODES = 16
"""Outputs of up to 4 bits have their thresholds in the guide; beyond, multipliers say the same in less."""


def build_guide(
    module: Module,
    *,
    weights_file: str,
    target: TargetLike | None = None,
    data: dict[str, str] | None = None,
    emulated: Mapping[str, str] | None = None,
    requantization: Requantization | None = None,
    cpus: CpuGuide | None = None,
    analyses: AnalysisCache | None = None,
) -> tuple[Guide, bytes]:
    """Return the guide of a calibrated module and the bytes of its weights file.

    Args:
        module: network with calibrated fake-quant nodes, before lowering.
        weights_file: name of the weights file next to the guide.
        target: target whose cost model gives cycles; None leaves them out.
        data: what each data split was used for.
        emulated: why the profile emulates something, by name of the node or quantizer that it emulates; a layer is
            emulated when its node, its weight's, its input's or its output's quantizer is.
        requantization: arithmetic from sums to codes; by default the target's, `float32` without one.
        cpus: on which CPUs the model file is exact.
        analyses: what is known of the network already.

    Raises:
        QirError: a quantizer is not calibrated, or a code does not fit.
        ExportError: requantization cannot be computed (`check_requantization`).
    """
    target = None if target is None else as_target(target)
    kind = requantization or ("float32" if target is None else target.export.requantization)
    analyses = AnalysisCache() if analyses is None else analyses
    arithmetic = analyses.get(ArithmeticAnalysis(), module)
    check_requantization(arithmetic, kind, None if target is None else target.accumulator_bits)
    costs, policy = _Costs.of(module, target), policy_of(module.graph)
    plain = {name: bits if isinstance(bits, int) else list(bits) for name, bits in policy.items()}
    weights = WeightsFile(weights_file)
    parts = _Layers(arithmetic, weights, costs, emulated or {}, "float32" if kind == "float32" else "dyadic")
    layers = [parts.add(layer) for layer in arithmetic.layers]
    stored = parts.stored(module.graph)
    network = describe_network(
        module,
        weights,
        parts.weight,
        kind=kind,
        layers={layer.node: layer.name for layer in layers},
        costs=costs.guide,
        analyses=analyses,
        storage_widths=() if target is None else target.padding.storage_widths,
    )
    total, clock = costs.total("cycles") or None, None if target is None else target.clock_hz
    guide = Guide(
        provenance=Provenance(
            qir_version=qir.__version__,
            float_model_sha256=module.meta.get("source_sha256", ""),
            target="" if target is None else target.name,
            target_sha256="" if target is None else _sha256(target.model_dump_json().encode()),
            policy=plain,
            policy_sha256=_sha256(json.dumps(plain, sort_keys=True).encode()),
            data=data or {},
        ),
        inputs=network.inputs,
        outputs=network.outputs,
        requantization=RequantizationGuide(kind=kind, rounding=ROUNDING[kind]),
        cpus=cpus,
        layers=layers,
        stored_weights=stored,
        tensors=network.tensors,
        constants=network.constants,
        steps=network.steps,
        network_unknown=network.unknown,
        memory=_memory(network),
        memory_unknown=_memory_unknown(module.graph, network),
        total_cycles=total,
        total_energy_pj=costs.total("energy_pj") or None,
        latency_seconds=total / clock if total is not None and clock is not None else None,
        unknown_costs=list(costs.unknown),
        unknown_reasons={} if costs.table is None else dict(costs.table.reasons),
        cost_shapes={} if costs.table is None else _known_shapes(costs.table.facts.sizes),
        weights_file=weights_file,
        weights_sha256=weights.sha256(),
    )
    return guide, bytes(weights.content)


def _known_shapes(sizes: Mapping[str, tuple[Dim, ...]]) -> dict[str, list[int]]:
    shapes = {name: [size for size in shape if isinstance(size, int)] for name, shape in sizes.items()}
    return {name: shape for name, shape in shapes.items() if len(shape) == len(sizes[name])}


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@dataclass
class _Costs:
    """The costs of the nodes at the module's bits; none without target."""

    table: CostTable | None = None
    policy: Policy | None = None
    by_node: dict[Node, Cost] = field(default_factory=dict)
    unknown: tuple[str, ...] = ()

    @staticmethod
    def of(module: Module, target: Target | None) -> _Costs:
        if target is None:
            return _Costs()
        table, policy = cost_table(module, target), policy_of(module.graph)
        shared = any(not isinstance(bits, int) for bits in policy.values())
        by_name = {} if shared else {row.node: row.cost for row in table.rows(policy)}
        by_node = {node: by_name[name] for node, name in layer_names(module.graph).items() if name in by_name}
        return _Costs(table, policy, by_node, table.unknown)

    def total(self, metric: str) -> float | None:
        if self.table is None or self.policy is None or self.unknown:
            return None
        return float(self.table.cost([self.policy], metric)[0])

    def guide(self, node: Node) -> CostGuide | None:
        cost = self.by_node.get(node)
        if cost is None:
            return None
        return CostGuide(
            cycles=cost.cycles,
            bound_by=cost.bound_by,
            energy_pj=dict(sorted(cost.energy.items())),
            bytes_moved=dict(sorted(cost.bytes_moved.items())),
            bit_operations=cost.bit_operations,
        )


@dataclass
class _Layers:
    """Entries of layers, and their packed weights one after the other."""

    arithmetic: NetworkArithmetic
    weights: WeightsFile
    costs: _Costs
    emulated: Mapping[str, str]
    kind: Arithmetic
    entries: dict[FakeQuant, tuple[TensorGuide, PackedTensor | None]] = field(default_factory=dict)

    def add(self, record: LayerArithmetic) -> LayerGuide:
        layer, bounds = record.layer, record.bounds
        parts = (layer.node, layer.weight, layer.data, layer.output)
        reasons = [self.emulated[part.name] for part in parts if part and part.name in self.emulated]
        data = tensor_guide(record.data, self.weights)
        weight, packed = (
            (tensor_guide(record.weight, self.weights), None)
            if layer.weight_tensor is None
            else self.weight(layer.weight)
        )
        return LayerGuide(
            name=layer.name,
            node=layer.node.name,
            op=layer.node.op,
            operand_pair=(data.bits, weight.bits),
            input=data,
            weight=weight,
            output=None if record.output is None else tensor_guide(record.output, self.weights),
            packed_weight=packed,
            accumulator=None if bounds is None else (bounds.low, bounds.high),
            accumulator_bits=None if bounds is None else bounds.bits,
            thresholds=None if record.multipliers is None else self._thresholds(record),
            cost=self.costs.guide(layer.node),
            execution="emulated" if reasons else "native",
            emulation="; ".join(dict.fromkeys(reasons)),
        )

    def stored(self, graph: Graph) -> list[StoredWeightGuide]:
        """Return entries of weights whose kernels compute in float."""
        found = []
        for entry in stored_weights(graph):
            weight, packed = self.weight(entry.quantizer)
            found.append(
                StoredWeightGuide(
                    name=entry.quantizer.name,
                    node=entry.node.name,
                    op=entry.node.op,
                    operand=entry.index,
                    weight=weight,
                    packed_weight=packed,
                    reason=entry.reason,
                )
            )
        return found

    def weight(self, quantizer: FakeQuant) -> tuple[TensorGuide, PackedTensor | None]:
        """Return the grid of a weight and where its codes lie: once, however many layers read them."""
        if quantizer not in self.entries:
            record = self.arithmetic.quantizer(quantizer)
            guide = tensor_guide(record, self.weights)
            self.entries[quantizer] = guide, self._pack(record, guide)
        return self.entries[quantizer]

    def _pack(self, record: QuantizerArithmetic, guide: TensorGuide) -> PackedTensor | None:
        if isinstance(record.quantizer.bits, int):
            codes, low = record.stored, record.grid.low_code
        elif record.codes is None:
            return None
        else:
            codes, low = record.codes.values, record.codes.low
        return self.weights.packed(codes, guide.bits, low, guide.code_step)

    def _thresholds(self, layer: LayerArithmetic) -> ThresholdsGuide | None:
        """Return thresholds of layers with narrow outputs; None where the requantization has none."""
        if layer.output is None or layer.output.grid.codes > MOST_CODES:
            return None
        try:
            found = layer_thresholds(layer, self.kind)
        except ExportError:  # a table of levels, odd codes, a product of two activations
            return None
        low, high = int(found.values.min()), int(found.values.max())
        bits = max((high - low).bit_length(), 1)
        packed = self.weights.packed(found.values, bits, low)
        return ThresholdsGuide(packed=packed, low_sum=low, low_code=found.low_code)


def tensor_guide(record: QuantizerArithmetic, weights: WeightsFile) -> TensorGuide:
    """Return the grid of a quantizer's tensor; long arrays go to the weights file."""
    quantizer = record.quantizer
    bits, granularity = quantizer.bits, quantizer.granularity
    widest = bits if isinstance(bits, int) else max(bits)
    parameters = record.grid if isinstance(bits, int) else quantizer.grid(widest)
    ranges = quantizer.ranges(widest)
    scale, zero, low, high = parameters.scale, parameters.zero_point, parameters.low_code, parameters.high_code
    table = levels = None
    if not isinstance(bits, int) and (found := record.codes) is not None:
        scale, zero, low, high = found.scale, found.zero_point, found.low, found.high
    elif parameters.levels is not None:
        multiples = record.multiples if isinstance(bits, int) else integer_levels(parameters)
        if multiples is None:
            levels = parameters.levels.tolist()
        else:
            table, scale = multiples[0].tolist(), multiples[1].scale
    return TensorGuide(
        name=quantizer.source.name,
        quantizer=quantizer.name,
        bits=widest,
        channel_bits=None if isinstance(bits, int) else list(bits),
        signed=parameters.signed,
        scheme=quantizer.scheme_name(widest),
        axis=granularity.axis,
        block=granularity.size,
        scale=weights.numbers(scale),
        zero_point=weights.numbers(zero),
        low_code=low,
        high_code=high,
        code_step=parameters.code_step,
        threshold=weights.numbers(np.asarray(ranges, np.float32)),
        table=table,
        levels=levels,
    )


def _memory_unknown(graph: Graph, network: NetworkGuide) -> str:
    names = unknown_sizes(graph)
    if not names:
        return network.unknown
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return (
        f"the sizes of {', '.join(names[:3])}{more} are unknown: run freeze-inputs{{shapes=[input:1x…]}} and "
        "infer-types before insert-fake-quant"
    )


def _memory(network: NetworkGuide) -> MemoryGuide | None:
    if network.plan is None:
        return None
    tensors = [
        BufferGuide(
            name=buffer.name,
            quantizer=buffer.quantizer,
            bits=buffer.bits,
            elements=buffer.elements,
            bytes=buffer.bytes,
            offset=offset,
            first=buffer.first,
            last=buffer.last,
        )
        for buffer, offset in zip(network.buffers, network.plan.offsets, strict=True)
    ]
    return MemoryGuide(
        tensors=tensors, peak=network.plan.peak, lower_bound=network.plan.lower_bound, order=network.plan.order
    )
