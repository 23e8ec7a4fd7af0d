"""The view of a quantizer: what it reads, what it writes through the node, what it refuses."""

import numpy as np
import pytest

from qir.errors import QirError
from qir.fake_quant import FakeQuant, make_fake_quant
from qir.granularity import PER_TENSOR, PerBlock, PerChannel
from qir.graph import Graph, Node
from qir.module import Module
from qir.tensor import Tensor
from qir.types import DType, TensorType

WEIGHT = np.linspace(-1, 1, 24, dtype=np.float32).reshape(4, 6)


def quantizer(*, bits=4, granularity=PER_TENSOR, signed=True, scheme="uniform"):
    module = Module(Graph())
    weight = module.graph.add_constant("w", Tensor.of(WEIGHT))
    node = make_fake_quant(
        weight, name="w.q", bits=bits, widths=(8, 2, 4), signed=signed, scheme=scheme, granularity=granularity
    )
    module.graph.insert(node)
    return module, FakeQuant(node)


def calibrated(**options):
    module, view = quantizer(**options)
    rows, axis = view.granularity.rows(WEIGHT)
    view.calibration = np.stack(
        [view.scheme(width).fit(rows, width, view.signed, False, axis) for width in view.widths]
    )
    return module, view


def test_a_view_reads_what_the_node_says():
    _, view = quantizer(granularity=PerBlock(1, 3))
    assert (view.name, view.bits, view.widths, view.signed, view.narrow) == ("w.q", 4, (2, 4, 8), True, False)
    assert view.granularity == PerBlock(1, 3)
    assert view.source.name == "w"
    assert view.result.type.quant.bits == 4
    assert view.is_weight
    assert not view.is_calibrated


def test_views_of_one_node_are_equal_and_hash_alike():
    _, view = quantizer()
    assert view == FakeQuant(view.node)
    assert {view: 1}[FakeQuant(view.node)] == 1
    assert view != view.node


def test_a_view_of_another_op_is_refused():
    with pytest.raises(QirError, match=r"'r': found op Relu; expected a quantizer"):
        FakeQuant(Node("Relu", name="r"))


def test_writing_bits_changes_the_type_and_only_the_policys_version():
    module, view = quantizer()
    version, policy_version = module.version, module.policy_version
    view.bits = 2
    assert view.result.type.quant.bits == 2
    assert (module.version, module.policy_version) == (version, policy_version + 1)


def test_narrowing_the_widths_keeps_the_ranges_of_those_that_stay():
    _, view = calibrated(granularity=PerChannel(0))
    kept = view.ranges(4)
    view.is_stale = True
    view.widths = (4,)
    np.testing.assert_array_equal(view.ranges(4), kept)
    assert view.is_stale
    with pytest.raises(QirError, match="2 bits are not among its widths"):
        view.ranges(2)


def test_a_calibrated_quantizer_gets_no_width_that_it_has_no_range_for():
    _, view = calibrated()
    with pytest.raises(QirError, match="3 bits are not among its widths"):
        view.widths = (3, 4)
    assert view.widths == (2, 4, 8)


@pytest.mark.parametrize("granularity", [PER_TENSOR, PerChannel(0), PerChannel(1), PerBlock(1, 4)])
def test_codes_lie_on_the_grid_and_near_the_values(granularity):
    _, view = calibrated(bits=8, granularity=granularity)
    grid, codes = view.grid(), view.codes(WEIGHT)
    assert codes.shape == WEIGHT.shape
    assert grid.low_code <= codes.min() <= codes.max() <= grid.high_code
    rows, axis = granularity.rows(codes)
    values = granularity.restored(view.scheme(8).dequantize(rows, grid, axis), WEIGHT.shape)
    np.testing.assert_allclose(values, WEIGHT, atol=float(grid.scale.max()))


def test_one_grid_for_each_width_that_channels_have():
    _, view = calibrated(bits=(2, 0, 4, 2), granularity=PerChannel(0))
    assert [grid.bits for grid in view.grids().values()] == [2, 4]
    with pytest.raises(QirError, match="one width per channel"):
        view.grid()


def test_grids_of_quantizers_that_are_stale_or_not_calibrated_are_refused():
    _, view = quantizer()
    with pytest.raises(QirError, match=r"'w.q' is not calibrated: run the pass calibrate"):
        view.grid()
    _, view = calibrated()
    view.is_stale = True
    with pytest.raises(QirError, match="its weight changed after calibration"):
        view.grid()
    view.calibration = view.calibration
    assert view.grid().bits == 4


def test_a_scheme_a_width():
    _, view = quantizer()
    view.set_scheme({2: "ternary", 4: "uniform", 8: "uniform"})
    assert [view.scheme_name(width) for width in view.widths] == ["ternary", "uniform", "uniform"]
    view.set_scheme("uniform-asymmetric")
    assert view.scheme(2).name == "uniform-asymmetric"


def test_values_answer_for_shape_rank_and_element_type():
    module, view = quantizer()
    unknown, partly = module.graph.add_input("a"), module.graph.add_input("b", TensorType(DType.INT64, ("n", 3)))
    assert (view.result.shape, view.result.rank, view.result.dtype) == ((4, 6), 2, DType.FLOAT32)
    assert (unknown.shape, unknown.rank, unknown.dtype) == (None, None, None)
    assert (partly.shape, partly.rank, partly.dtype) == (("n", 3), 2, DType.INT64)


def test_operands_and_graphs_that_have_to_be_there_are_named_when_they_are_missing():
    node = Node("Conv", [None], ["y"], name="conv1")
    for index in (0, 1):
        with pytest.raises(QirError, match=rf"node 'conv1': operand {index} of Conv is missing"):
            node.operand(index)
    with pytest.raises(QirError, match="node 'conv1': this Conv stands in no graph"):
        _ = node.scope


def test_a_node_is_called_by_its_name_its_result_or_its_op():
    labels = [Node("Relu", name="r").label, Node("Relu", (), ["y"]).label, Node("Relu", (), 0).label]
    assert labels == ["r", "y", "relu"]
