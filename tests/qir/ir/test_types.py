"""Every numbered constraint of the types is broken once."""

import pytest

from qir.errors import TypeVerifyError
from qir.types import DType, QuantType, TensorType

BROKEN = {
    "Q1": [{"bits": 0}, {"bits": 33}, {"bits": (2, 2)}, {"bits": (), "axis": 0}],
    "Q2": [{"bits": 8, "axis": -1}],
    "Q3": [{"bits": 8, "axis": 0, "block": 0}, {"bits": 8, "block": 4}],
    "Q4": [{"bits": 8, "low": (1.0,), "high": (0.0,)}, {"bits": 8, "low": (0.0,)}],
    "Q5": [{"bits": 8, "scale": (0.0,), "zero_point": (0,)}, {"bits": 8, "scale": (float("inf"),), "zero_point": (0,)}],
    "Q6": [{"bits": 8, "scale": (1.0,)}, {"bits": 8, "zero_point": (0,)}],
    "Q7": [{"bits": 4, "scale": (1.0,), "zero_point": (8,)}],
    "Q8": [{"bits": 8, "scale": (1.0, 2.0), "zero_point": (0, 0)}],
    "Q9": [{"bits": 1, "levels": ((0.0, 1.0, 2.0),)}, {"bits": 2, "levels": ((1.0, 0.0),)}],
    "Q10": [{"bits": 8, "scale": (1.0,), "zero_point": (0,), "levels": ((0.0,),)}],
}


@pytest.mark.parametrize(("constraint", "fields"), [(name, fields) for name, all_ in BROKEN.items() for fields in all_])
def test_quantized_types_hold_their_constraints(constraint, fields):
    with pytest.raises(TypeVerifyError, match=f"^{constraint}:"):
        QuantType(**fields)


@pytest.mark.parametrize(
    ("constraint", "element", "shape"),
    [
        ("T1", DType.FLOAT32, (-1,)),
        ("T2", QuantType(8, axis=2), (3, 3)),
        ("T3", QuantType(8, axis=0, scale=(1.0, 2.0), zero_point=(0, 0)), (3,)),
        ("T3", QuantType((2, 4), axis=0), (3,)),
    ],
)
def test_tensor_types_hold_their_constraints(constraint, element, shape):
    with pytest.raises(TypeVerifyError, match=f"^{constraint}:"):
        TensorType(element, shape)
