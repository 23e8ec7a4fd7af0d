import numpy as np
import pytest

from qir.errors import PassError
from qir.passes import PassContext
from qir.passes.correction.equalize_activations import EqualizeActivations
from qir.passes.infrastructure.testing import largest_error, run_onnxruntime

DATA = np.random.default_rng(5).standard_normal((8, 6, 16)).astype(np.float32)
OUTLIERS = np.where(np.arange(16) % 5 == 0, 30.0, 0.3)


def run(module, data=DATA, reports=None, **options):
    inputs = {"x": data[:4]}
    before = run_onnxruntime(module, inputs)
    changed = EqualizeActivations(**options).run(module, PassContext(calibration_data=data, reports=reports))
    assert largest_error(before, run_onnxruntime(module, inputs)) < 3e-6
    return changed


def attention(builder):
    """LayerNormalization with outlier channels before two projections."""
    b = builder()
    y = b.node("LayerNormalization", [b.input("x", ["n", 6, 16]), b.const("g", OUTLIERS), b.normal("b", 16)], axis=-1)
    return b.module(b.node("MatMul", [y, b.normal("q", 16, 8)]), b.node("MatMul", [y, b.normal("k", 16, 8)]))


def test_layer_normalization_takes_the_division(builder):
    module = attention(builder)
    assert run(module)
    gain = next(v for v in module.graph.constants if v.name == "g").constant.numpy()
    assert np.abs(gain).max() / np.abs(gain).min() < 20
    assert [node.op for node in module.graph] == ["LayerNormalization", "MatMul", "MatMul"]


def test_alpha_one_makes_activations_equally_wide(builder):
    module = attention(builder)
    run(module, alpha=1.0)
    from qir.passes.calibration.activation_statistics import channel_magnitudes

    value = module.graph.nodes[0].result
    np.testing.assert_allclose(channel_magnitudes(module, [(value, -1)], DATA)[value], 1.0, rtol=1e-4)


def test_a_layer_after_relu_takes_the_division(builder):
    b = builder()
    y = b.node(
        "MatMul",
        [b.input("x", ["n", 6, 16]), b.const("w", np.random.default_rng(1).standard_normal((16, 16)) * OUTLIERS)],
    )
    y = b.node("Relu", [b.node("Add", [y, b.normal("c", 16)])])
    module = b.module(b.node("MatMul", [y, b.normal("v", 16, 4)]))
    assert run(module)
    assert [node.op for node in module.graph] == ["MatMul", "Add", "Relu", "MatMul"]


@pytest.mark.parametrize("insert", [False, True])
def test_a_graph_input_needs_an_inserted_mul(builder, insert):
    b = builder()
    module = b.module(b.node("MatMul", [b.input("x", ["n", 6, 16]), b.normal("v", 16, 4)]))
    left = {}
    assert run(module, insert=insert, reports=left) is insert
    assert [node.op for node in module.graph] == (["Mul", "MatMul"] if insert else ["MatMul"])
    if not insert:
        assert "graph input" in left["equalize-activations"]["x"]


def test_values_that_others_use_too_are_left_alone(builder):
    b = builder()
    y = b.node("MatMul", [b.input("x", ["n", 6, 16]), b.normal("w", 16, 16)])
    module = b.module(b.node("Add", [y, b.node("MatMul", [y, b.normal("v", 16, 16)])]))
    left = {}
    run(module, reports=left)
    assert any("also goes to Add" in reason for reason in left["equalize-activations"].values())


def test_alpha_is_checked(builder):
    with pytest.raises(PassError, match="expected 0 to 1"):
        EqualizeActivations(alpha=2.0).run(attention(builder), PassContext())


def test_one_number_added_before_the_layer_becomes_one_a_channel(builder):
    b = builder()
    y = b.node("LayerNormalization", [b.input("x", ["n", 6, 16]), b.const("g", OUTLIERS), b.normal("b", 16)], axis=-1)
    y = b.node("Add", [y, b.const("half", np.float32(0.5))])
    assert run(b.module(b.node("MatMul", [y, b.normal("q", 16, 8)])))


def test_a_factor_along_another_axis_takes_no_division(builder):
    data = np.random.default_rng(5).standard_normal((8, 6, 5, 6)).astype(np.float32)
    b = builder()
    y = b.node("Mul", [b.input("x", ["n", 6, 5, 6]), b.const("columns", np.linspace(1, 9, 6))])
    module = b.module(b.node("Conv", [y, b.normal("w", 4, 6, 1, 1)], kernel_shape=[1, 1]))
    left = {}
    assert not run(module, data, left)
    assert "not one constant a channel" in left["equalize-activations"][module.graph.nodes[0].result.name]


def test_pooling_over_the_channels_of_a_product_takes_no_division(builder):
    b = builder()
    y = b.node("MatMul", [b.input("x", ["n", 6, 16]), b.const("w", np.diag(OUTLIERS))])
    y = b.node("MaxPool", [y], kernel_shape=[3], pads=[1, 1])
    assert not run(b.module(b.node("MatMul", [y, b.normal("v", 16, 8)])))
