"""Legalization: how a profile holds every quantizer, natively or emulated, or why it does not."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, cast

from qir.backends.execution.saturation import WeightStorage
from qir.errors import ExportError
from qir.fake_quant import FakeQuant
from qir.granularity import PerBlock
from qir.module import Module
from qir.ops import op_of
from qir.passes.analysis.arithmetic.layer import LayerArithmetic
from qir.passes.analysis.arithmetic.network import arithmetic_of
from qir.passes.analysis.arithmetic.quantizer import QuantizerArithmetic
from qir.passes.analysis.quantized_layers import stored_weights
from qir.passes.infrastructure.contract import Pass, PassContext
from qir.passes.lowering.holdings import FLOAT, Holding, Legalization
from qir.passes.lowering.parts.qonnx_forms import activation_form
from qir.passes.lowering.profiles.profiles import Profile, find_profile, profiles, runtime_at
from qir.passes.lowering.saturation.store_weights import store_weights
from qir.types import DType, code_range


@dataclass(frozen=True)
class Legalize(Pass):
    """Decide how an export profile holds every quantizer of the main graph; the module itself stays.

    The result is the `Legalization` in `context.reports["legalize"]`, which lowering passes read.

    Attributes:
        profile: name of the profile.
        runtime: version of ONNX Runtime whose rules hold; empty = the installed one.
        weights: how 8-bit weight codes are stored: `auto`, `int8` or `uint8` (`ExportSpec.weights`).
    """

    name: ClassVar[str] = "legalize"
    profile: str = "qcdq"
    runtime: str = ""
    weights: WeightStorage = "auto"

    def run(self, module: Module, context: PassContext) -> bool:
        """Decide; raises `ExportError` that names quantizer, width, profile and remedies."""
        rules = runtime_at(self.runtime or _installed())
        arithmetic = arithmetic_of(module, context)
        found = Legalization(arithmetic, find_profile(self.profile), rules)
        if found.profile.runs_in == "onnxruntime" and found.profile.opset > rules.opset:
            raise ExportError(
                f"profile {self.profile!r} needs operator set {found.profile.opset}; ONNX Runtime is known to load "
                f"{rules.opset} from version {rules.since} on: install a newer one"
            )
        for quantizer in map(FakeQuant, module.graph.fake_quants()):
            holding = hold(arithmetic.quantizer(quantizer), found.profile)
            found.holdings[quantizer.name] = holding
            if holding.emulation:
                found.emulated[quantizer.name] = holding.emulation
        for record in arithmetic.layers:
            if found.on_integers(record.layer) and _check_sums(record, found.profile):
                found.emulated[record.layer.node.name] = "a bias beyond int32, added in float"
        for stored in stored_weights(module.graph):
            found.emulated.setdefault(stored.node.name, stored.reason)
        if found.profile.activations:
            _widen(module, found)
        store_weights(found, self.weights)
        context.reports[self.name] = found
        return False


def legalization(module: Module, context: PassContext) -> Legalization:
    """Return what `legalize` found in this context.

    It runs for the default profile where it has not seen the network.
    """
    found: Legalization | None = context.reports.get(Legalize.name)
    if found is None or any(node.name not in found.holdings for node in module.graph.fake_quants()):
        context.run(Legalize(), module)
    return cast("Legalization", context.reports[Legalize.name])


def hold(record: QuantizerArithmetic, profile: Profile) -> Holding:
    """Return how a profile holds a calibrated quantizer.

    Raises:
        ExportError: it cannot; the message names the quantizer, its width and which profiles can.
    """
    found = _try(record, profile)
    if isinstance(found, Holding):
        return found
    others = [other.name for other in profiles() if other != profile and isinstance(_try(record, other), Holding)]
    remedy = f"profiles that hold it: {', '.join(others)}" if others else "choose another width or scheme for it"
    raise ExportError(
        f"quantizer {record.quantizer.name!r} ({_describe(record.quantizer)}): profile {profile.name!r} {found}; "
        f"{remedy}"
    )


def _try(record: QuantizerArithmetic, profile: Profile) -> Holding | str:
    """Return the holding, or why there is none."""
    quantizer, constant = record.quantizer, record.quantizer.is_weight
    if not isinstance(quantizer.bits, int) and not constant:
        return "holds one width per activation tensor"
    found = _weight(record) if constant else _activation(record)
    if found.emulation and _needs(quantizer, found) not in profile.emulates:
        return f"cannot express {found.emulation}"
    types = profile.weights if constant else profile.activations
    if not types:
        return "leaves activations float: insert-fake-quant{activation_widths=float} quantizes weights alone"
    container = _container(found, types)
    if container is not None:
        emulation = found.emulation or _simulation(profile) or ("" if constant else _clipping(record, found, profile))
        return replace(found, container=container, emulation=emulation)
    if found.form != "levels" or "tables" not in profile.emulates:
        return f"has no element type for its codes ({', '.join(types)})"
    return replace(found, container=FLOAT, grid=None, codes=None, emulation="a table of levels, looked up in float")


def _clipping(record: QuantizerArithmetic, found: Holding, profile: Profile) -> str:
    """Return what a profile without zero points does about one."""
    if profile.zero_points == "native" or found.form != "affine" or activation_form(record).bounds is None:
        return ""
    return "a zero point: the grid is cut out of a wider one by Clip"


def _needs(quantizer: FakeQuant, found: Holding) -> str:
    """Return the kind of emulation."""
    if isinstance(quantizer.granularity, PerBlock):
        return "blocks"
    if not isinstance(quantizer.bits, int) and found.codes is not None:
        return "channel-widths"
    return "tables" if found.form == "levels" and found.codes is None else found.form


def _simulation(profile: Profile) -> str:
    return "computed in float" if profile.simulated and profile.weights == (FLOAT.label,) else ""


def _weight(record: QuantizerArithmetic) -> Holding:
    codes = record.codes
    if not isinstance(record.quantizer.bits, int):
        if codes is None:
            return Holding(FLOAT, "levels", None, None, "a table of levels per channel, looked up in float")
        return Holding(FLOAT, "affine", None, codes, "a width per channel, stored at the widest")
    if record.grid.levels is None:
        blocks = "blocks of scales, multiplied in float" if isinstance(record.quantizer.granularity, PerBlock) else ""
        return Holding(FLOAT, "affine", record.grid, codes, blocks)
    if codes is None:
        return Holding(FLOAT, "levels", None, None, "a table of levels, looked up in float")
    stepped = "levels as multiples of a step, biases in int32 steps of it"
    return Holding(FLOAT, "levels", record.integers, codes, stepped)


def _activation(record: QuantizerArithmetic) -> Holding:
    grid = record.grid
    if grid.is_affine:
        return Holding(FLOAT, "affine", grid)
    if grid.levels is None:
        return Holding(FLOAT, "mid-rise", grid, None, "odd codes, computed in float")
    if record.integers is None:
        return Holding(FLOAT, "levels", None, None, "a table of levels, looked up in float")
    return Holding(FLOAT, "levels", record.integers, None, "levels as multiples of a step, looked up in float")


def _container(found: Holding, types: tuple[str, ...]) -> DType | None:
    """Return the first element type that holds the codes; signed ones hold codes below zero, unsigned ones the others.

    Activations fill a type below 8 bits exactly: Clip takes none of these types.
    """
    if FLOAT.label in types:
        return FLOAT
    if found.codes is not None:
        low, high = found.codes.low, found.codes.high
    elif found.grid is not None:
        low, high = found.grid.low_code, found.grid.high_code
    else:
        return None
    for label in types:
        dtype, signed = DType.from_label(label), label.startswith("int")
        lowest, highest = code_range(dtype.bits, signed=signed)
        clips = found.codes is None and (low, high) != (lowest, highest)
        if signed == (low < 0) and lowest <= low and high <= highest and not (clips and dtype.bits < 8):
            return dtype
    return None


def _describe(quantizer: FakeQuant) -> str:
    bits = quantizer.bits
    width = f"{bits} bits" if isinstance(bits, int) else f"{min(bits)} to {max(bits)} bits per channel"
    return f"{width}, {quantizer.scheme_name(bits if isinstance(bits, int) else max(bits))}"


def _check_sums(layer: LayerArithmetic, profile: Profile) -> bool:
    """Refuse a bias or sums that the profile's accumulators cannot hold; whether the bias exceeds int32."""
    bounds, bias = layer.bounds, layer.bias
    if bounds is None:
        return False
    exceeds = bias is not None and bias.exceeds_int32
    if bias is not None and exceeds and profile.accumulator_bits <= 32:
        raise ExportError(
            f"layer {layer.name!r}: its bias exceeds int32 at scale s_x*s_w = {bias.scale.min():g}: run "
            "fit-bias after calibrate, calibrate its input with a wider range, or equalize the weights"
        )
    if bounds.bits > profile.accumulator_bits:
        raise ExportError(
            f"layer {layer.name!r}: its sums can reach {bounds.low} to {bounds.high}, {bounds.bits} bits, and leave "
            f"int{profile.accumulator_bits}: use fewer bits for its weights or input, or split the layer"
        )
    return exceeds


def _widen(module: Module, found: Legalization) -> None:
    for quantizer in map(FakeQuant, module.graph.fake_quants()):
        if not quantizer.is_weight:
            for op in _neighbours(quantizer):
                _widen_refused(found, quantizer, op, "")
    for layer in (record.layer for record in found.arithmetic.layers):
        weight = found.holdings[layer.weight.name].container.label
        for quantizer in (q for q in (layer.data, layer.output) if q is not None):
            _widen_refused(found, quantizer, layer.node.op, weight)


def _widen_refused(found: Legalization, quantizer: FakeQuant, op: str, weight: str) -> None:
    """Put an activation into a wider container where the runtime refuses its element type around an op."""
    holding, types, session = found.holdings[quantizer.name], found.profile.activations, found.profile.session
    while found.runtime.refuses(op, weight, holding.container.label, session):
        types = types[types.index(holding.container.label) + 1 :]
        container = _container(holding, types)
        if container is None:
            raise ExportError(
                f"quantizer {quantizer.name!r}: ONNX Runtime {found.runtime.since} refuses {op} with "
                f"{holding.container.label} activations and {weight or 'no'} weights: choose other widths, or profile "
                "'qcdq'"
            )
        holding = replace(holding, container=container)
    found.holdings[quantizer.name] = holding


def _neighbours(quantizer: FakeQuant) -> list[str]:
    """Return the op types in front of an activation's quantizer, and of the grid-keeping ops after it."""
    maker, found = quantizer.source.producer, list[str]()
    if maker is not None:
        found.append(maker.op)
    reached = [quantizer.result]
    while reached:
        for use in reached.pop().uses:
            if not use.node.is_return and op_of(use.node).grid_operand(use.node) == use.index:
                found.append(use.node.op)
                reached.append(use.node.result)
    return found


def _installed() -> str:
    import onnxruntime

    return str(onnxruntime.__version__)
