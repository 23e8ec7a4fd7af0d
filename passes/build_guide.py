"""From a quantized module to its guide and packed weights."""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np

import qir
from qir.attributes import Attribute
from qir.fake_quant import bits_of, parameters_of, policy_of, ranges_at
from qir.graph import Node
from qir.guide import Guide, LayerGuide, PackedTensor, Provenance, TensorGuide
from qir.module import Module
from qir.packing import pack
from qir.passes.lowering.lower_qcdq import bias_codes, proven_bounds, weight_codes
from qir.passes.quantized_layers import QuantizedLayer, output_clamp, quantized_layers
from qir.tensor import Tensor


def build_guide(
    module: Module,
    *,
    weights_file: str,
    target: Any = None,
    data: dict[str, str] | None = None,
    emulated: Mapping[str, str] | None = None,
) -> tuple[Guide, bytes]:
    """The guide of a calibrated module and the bytes of its weights file.

    Args:
        module: network with calibrated fake-quant nodes, before lowering.
        weights_file: name of the weights file beside the guide.
        target: target whose cost model gives cycles; None leaves them out.
        data: what each data split was used for.
        emulated: why the profile emulates something, by name of the node or quantizer that it emulates; a layer is
            emulated when its node, its weight's, its input's or its output's quantizer is.

    Raises:
        QirError: a quantizer is not calibrated, or a code does not fit.
    """
    costs = _costs(module, target)
    packed = bytearray()
    reasons = emulated or {}
    layers = [
        _layer(layer, packed, weights_file, costs.get(layer.name), reasons) for layer in quantized_layers(module.graph)
    ]
    policy = {name: bits for name, bits in policy_of(module.graph).items() if isinstance(bits, int)}
    known = [layer.cycles for layer in layers]
    guide = Guide(
        provenance=Provenance(
            qir_version=qir.__version__,
            float_model_sha256=module.meta.get("source_sha256", ""),
            target="" if target is None else target.name,
            target_sha256="" if target is None else _sha256(target.model_dump_json().encode()),
            policy=policy,
            policy_sha256=_sha256(json.dumps(policy, sort_keys=True).encode()),
            data=data or {},
        ),
        inputs=[value.name for value in module.graph.inputs],
        outputs=list(module.graph.output_names),
        layers=layers,
        total_cycles=sum(c for c in known if c is not None) if known and all(c is not None for c in known) else None,
        weights_file=weights_file,
        weights_sha256=_sha256(bytes(packed)),
    )
    return guide, bytes(packed)


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _costs(module: Module, target: Any) -> dict[str, Any]:
    """Cycles and bound of every layer at the module's bits, by layer name."""
    if target is None:
        return {}
    table = target.cost_model().table(module, target)
    return {str(row.node.removesuffix(".weight")): row for row in table.rows(policy_of(module.graph))}


def _layer(
    layer: QuantizedLayer, packed: bytearray, weights_file: str, cost: Any, emulated: Mapping[str, str]
) -> LayerGuide:
    parts = (layer.node, layer.weight, layer.data, layer.output)
    emulation = "; ".join(dict.fromkeys(emulated[part.name] for part in parts if part and part.name in emulated))
    biased = layer.bias is not None and layer.bias.constant is not None
    bounds = proven_bounds(layer)
    return LayerGuide(
        name=layer.name,
        node=layer.node.name,
        op=layer.node.op,
        attributes={name: _plain(attribute) for name, attribute in sorted(layer.node.attributes.items())},
        input=_tensor(layer.data),
        weight=_tensor(layer.weight),
        output=None if layer.output is None else _tensor(layer.output),
        packed_weight=None if layer.weight_tensor is None else _pack(layer.weight, packed, weights_file),
        bias_codes=bias_codes(layer)[0].reshape(-1).tolist() if biased else None,
        multiplier=_multiplier(layer),
        clamp=None if layer.output is None else output_clamp(layer),
        accumulator=None if bounds is None else (bounds.low, bounds.high),
        accumulator_bits=None if bounds is None else bounds.bits,
        cycles=None if cost is None else cost.cycles,
        bound_by=None if cost is None else cost.bound_by,
        execution="emulated" if emulation else "native",
        emulation=emulation,
    )


def _plain(attribute: Attribute) -> Any:
    value = attribute.python()
    return value.numpy().tolist() if isinstance(value, Tensor) else list(value) if isinstance(value, tuple) else value


def _tensor(node: Node) -> TensorGuide:
    bits, parameters = bits_of(node), parameters_of(node)
    assert isinstance(bits, int)  # noqa: S101 - parameters_of raises otherwise
    ranges = ranges_at(node, bits)
    assert ranges is not None  # noqa: S101 - parameters_of raises otherwise
    return TensorGuide(
        name=node.operands[0].name,
        quantizer=node.name,
        bits=bits,
        signed=parameters.signed,
        scheme=str(node.attribute("scheme")),
        axis=node.attribute("axis"),
        scale=parameters.scale.tolist(),
        zero_point=parameters.zero_point.tolist(),
        low_code=parameters.low_code,
        high_code=parameters.high_code,
        code_step=parameters.code_step,
        threshold=[(float(low), float(high)) for low, high in ranges],
    )


def _pack(node: Node, packed: bytearray, weights_file: str) -> PackedTensor:
    codes, parameters, bits = weight_codes(node), parameters_of(node), bits_of(node)
    assert isinstance(bits, int)  # noqa: S101 - parameters_of raises otherwise
    data = pack(codes, bits, parameters.low_code, parameters.code_step)
    entry = PackedTensor(
        file=weights_file,
        offset=len(packed),
        length=len(data),
        bits=bits,
        shape=list(codes.shape),
        crc32=zlib.crc32(data),
    )
    packed += data
    return entry


def _multiplier(layer: QuantizedLayer) -> list[float] | None:
    if layer.output is None:
        return None
    product = (parameters_of(layer.data).scale[0] * parameters_of(layer.weight).scale).astype(np.float32)
    return [float(m) for m in (product / parameters_of(layer.output).scale[0]).astype(np.float32)]
