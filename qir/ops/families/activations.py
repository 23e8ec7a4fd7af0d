"""Activation functions."""

from __future__ import annotations

from qir.ops.definition import OpDef, ops
from qir.ops.example import Example, example, given, normal
from qir.ops.grid_flow import clipped, positive_part

_PLAIN = "Sigmoid Tanh HardSwish Softplus Softsign Erf Mish"
_PARAMETERS = {
    "LeakyRelu": (example(normal(3, 4), alpha=0.2),),
    "Elu": (example(normal(3, 4), alpha=0.7),),
    "Selu": (example(normal(3, 4)),),
    "Celu": (example(normal(3, 4), alpha=0.7),),
    "ThresholdedRelu": (example(normal(3, 4), alpha=0.3),),
    "HardSigmoid": (example(normal(3, 4)), example(normal(3, 4), alpha=0.3, beta=0.4, label="slope")),
    "Shrink": (example(normal(3, 4), lambd=0.4, bias=0.1),),
    "Gelu": (example(normal(3, 4)), example(normal(3, 4), approximate="tanh", label="tanh")),
}

_NORMALIZED = "Softmax LogSoftmax Hardmax"


def _normalized(opset: int, label: str) -> tuple[Example, ...]:
    return (
        example(normal(2, 3, 4), opset=opset, label=label),
        example(normal(2, 3, 4), axis=1, opset=opset, label=f"{label} axis-1".strip()),
    )


OPS = (
    OpDef("Relu", flow=positive_part, is_elementwise=True, is_activation=True, examples=(example(normal(3, 4)),)),
    OpDef(
        "Clip",
        flow=clipped,
        is_elementwise=True,
        is_activation=True,
        examples=(
            example(normal(3, 4), given(-0.5, "float32"), given(0.7, "float32")),
            example(normal(3, 4), None, given(0.2, "float32"), label="upper"),
            example(normal(3, 4), min=-0.1, max=0.6, opset=10, label="opset-10"),
        ),
    ),
    *ops(_PLAIN, is_elementwise=True, examples={name: (example(normal(3, 4)),) for name in _PLAIN.split()}),
    *ops(" ".join(_PARAMETERS), is_elementwise=True, examples=_PARAMETERS),
    OpDef("PRelu", trained=(1,), is_elementwise=True, examples=(example(normal(2, 3, 4, 5), normal(3, 1, 1)),)),
    *ops(_NORMALIZED, examples={name: _normalized(11, "opset-11") for name in _NORMALIZED.split()}),
    *ops(_NORMALIZED, since_version=13, examples={name: _normalized(21, "") for name in _NORMALIZED.split()}),
)
