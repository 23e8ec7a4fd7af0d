"""What a target's file leaves out, and what is assumed in its place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from qir.backends.costs.target import Target

_ASSUMED = {
    "pairs": "every combination of the widths is legal",
    "fused_ops": "no op runs for free after a layer: activations such as Relu pass through the memory once more",
    "clock_hz": "unknown: costs are in cycles, not in milliseconds",
    "padding": "a tensor of n bits is stored in n bits an element",
    "accumulator_bits": "32: sums of more bits are refused at export",
    "add_requires_equal": "false: the operands of Add may differ in width, they are rescaled",
    "reduce_range": "false: 8-bit weights keep 8 bits next to 8-bit activations",
    "export": "profile qcdq, float32 multipliers: ONNX Runtime runs the file",
    "quantize": "every layer, addition, concatenation and average pooling is quantized; first and last are decisions",
    "sources": "no number says where it comes from",
}
"""Key of a target's file → what holds without it."""

FUSED_OPS = ("Relu", "Clip", "BatchNormalization")
"""What accelerators usually compute on the way out of a layer."""


@dataclass(frozen=True)
class Assumption:
    """A key that a target's file leaves out.

    Attributes:
        key: its place in the file, such as `cost.parameters.efficiency`.
        assumed: what holds without it.
    """

    key: str
    assumed: str


def assumptions(target: Target) -> tuple[Assumption, ...]:
    """Return every key that a target leaves out, and what is assumed in its place, in the order of the description."""
    found = [Assumption(key, text) for key, text in _ASSUMED.items() if key not in target.model_fields_set]
    for index, memory in enumerate(target.memories):
        if memory.bytes is None:
            found.append(Assumption(f"memories[{index}].bytes", f"{memory.name} holds whatever is put into it"))
    model = target.cost_model()
    if not model.knows_energy:
        found.append(Assumption(f"cost.parameters.{model.energy_parameter}", "unknown: there are no figures of energy"))
    for key, entry in type(model.parameters).model_fields.items():
        if key not in model.parameters.model_fields_set and key != model.energy_parameter:
            found.append(Assumption(f"cost.parameters.{key}", str(entry.get_default(call_default_factory=True))))
    return tuple(found)
