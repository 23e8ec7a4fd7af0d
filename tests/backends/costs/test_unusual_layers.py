"""Recurrent layers, volumes, embeddings and unknown ops are costed or reported, never zero in silence."""

import numpy as np
import pytest

from qir.backends import cost_table, load_target
from qir.backends.costs.hardware import OpSupport
from qir.backends.costs.layers.cost import Cost
from qir.backends.costs.layers.layer_shapes import layer_products, layer_shape
from qir.backends.costs.tables.delay_files import DelayTable, delays_of
from qir.backends.costs.tables.reports import explain_costs, model_bytes
from qir.errors import TargetError
from qir.graph import Graph, Node
from qir.module import Module
from qir.ops import infer_graph, op_of
from qir.tensor import Tensor
from qir.types import DType, TensorType


def network(op, shape, constants, *, element=DType.FLOAT32, results=1, first=None, **attributes):
    """One node on one input; `first` is a constant in front of the input."""
    graph = Graph(op)
    value = graph.add_input("x", TensorType(element, shape))
    operands = [graph.add_constant(f"c{i}", Tensor.of(array)) for i, array in enumerate(constants)]
    inputs = (value, *operands) if first is None else (graph.add_constant("table", Tensor.of(first)), value, *operands)
    names = tuple(f"y{i}" for i in range(results))
    node = graph.insert(Node(op, inputs, names, name="node", attributes=attributes))
    graph.set_outputs([node.results[0]])
    module = Module(graph, opsets={"": 21})
    infer_graph(module)
    return module, node


def table_of(module, target="bismo-16x16x256"):
    return cost_table(module, target)


def recurrent(op, gates, **attributes):
    weights = [np.zeros((1, gates * 8, 16), np.float32), np.zeros((1, gates * 8, 8), np.float32)]
    return network(op, (5, 2, 16), weights, hidden_size=8, **attributes)


@pytest.mark.parametrize(("op", "gates"), [("LSTM", 4), ("GRU", 3), ("RNN", 1)])
@pytest.mark.parametrize("target", ["bismo-16x16x256", "bitfusion-e", "stripes-serial-weights"])
def test_recurrent_layers_cost_their_products_at_their_widths(op, gates, target):
    module, node = recurrent(op, gates)
    table = table_of(module, target)
    assert not table.unknown
    rows = [table.rows(table.uniform(8, bits))[0] for bits in (8, 4, 2)]
    assert rows[0].cost.bit_operations == 64 * 5 * 2 * gates * 8 * (16 + 8) == 64 * op_of(node).macs(node)
    assert rows[0].cycles > rows[1].cycles > rows[2].cycles > 0
    mixed = table.uniform(8, 8) | {"node.recurrence": 2}
    assert rows[0].cycles > table.cost([mixed])[0] > rows[2].cycles
    assert delays_of(table).at("node", 4, 8) == pytest.approx(rows[1].cycles)
    assert 0 < explain_costs(table, "node").cycles[8, 4] <= rows[1].cycles


def test_a_recurrent_layer_multiplies_its_state_at_every_time_step():
    for attributes, steps, sequences in (({}, 5, 2), ({"layout": 1}, 2, 5)):
        _, node = recurrent("LSTM", 4, **attributes)
        inputs, states = layer_products(node)
        assert (inputs.copies, inputs.shape.batch, inputs.shape.taps) == (1, 10, 16)
        assert (states.copies, states.shape.batch, states.shape.taps) == (steps, sequences, 8)


def test_a_layer_of_several_products_takes_its_whole_delay_once(tmp_path):
    module, _ = recurrent("LSTM", 4)
    DelayTable({"node": {(w, 8): 100.0 * w for w in (4, 8)}}).write(tmp_path / "delays.csv")
    base = load_target("delay-table-template")
    spec = base.cost.model_copy(update={"parameters": {"file": str(tmp_path / "delays.csv")}})
    target = base.model_copy(
        update={"cost": spec, "pairs": ((8, 4), (8, 8)), "activation_widths": (8,), "weight_widths": (4, 8)}
    )
    table = cost_table(module, target)
    assert table.cost([table.uniform(8, 8), table.uniform(8, 4)]).tolist() == pytest.approx([800.0, 400.0])


@pytest.mark.parametrize(
    ("op", "weight", "attributes"),
    [
        ("Conv", (6, 4, 3, 2, 2), {"pads": (1, 0, 0, 1, 1, 0), "strides": (2, 1, 1)}),
        ("Conv", (6, 2, 3, 3, 3), {"group": 2}),
        ("ConvTranspose", (4, 6, 2, 2, 2), {"strides": (2, 2, 2)}),
    ],
)
def test_convolutions_over_volumes_cost_all_their_products(op, weight, attributes):
    module, node = network(op, (1, 4, 8, 9, 7), [np.zeros(weight, np.float32)], **attributes)
    shape, copies = layer_shape(node)
    assert copies * shape.macs == op_of(node).macs(node)
    assert shape.weights == np.prod(weight)
    assert table_of(module).rows(table_of(module).uniform(8, 8))[0].cycles > 0


def test_an_embedding_reads_its_rows_and_not_the_whole_table():
    module, _ = network("Gather", (1, 6), [], element=DType.INT64, first=np.zeros((1000, 32), np.float32))
    table = table_of(module)
    assert not table.unknown
    [row] = table.rows({})
    assert row.cost.total_bytes == (6 * 32 + 6 + 6 * 32) * 4


@pytest.mark.parametrize(
    ("op", "constants", "attributes"),
    [("Einsum", [np.zeros((5, 4), np.float32)], {"equation": "ij,kj->ik"}), ("Mystery", [], {"domain": "custom"})],
)
def test_unknown_ops_are_reported(op, constants, attributes):
    domain = attributes.pop("domain", "")
    graph = Graph("unknown")
    value = graph.add_input("x", TensorType(DType.FLOAT32, (3, 4)))
    operands = [graph.add_constant(f"c{i}", Tensor.of(array)) for i, array in enumerate(constants)]
    node = graph.insert(Node(op, (value, *operands), ("y",), name="odd", domain=domain, attributes=attributes))
    graph.set_outputs([node.result])
    table = table_of(Module(graph, opsets={"": 21, "custom": 1}))
    assert table.unknown == ("odd",)
    with pytest.raises(TargetError, match="cost of odd is unknown"):
        table.cost([{}])


def test_ops_that_a_target_cannot_run_are_reported():
    module, _ = network("Add", (1, 8), [np.ones(8, np.float32)])
    target = load_target("npu-148")
    target = target.model_copy(update={"ops": {"Add": OpSupport(supported=False)}})
    table = cost_table(module, target)
    assert table.unknown == ("node",)
    assert table.facts.notes == ("node: target 'npu-148' cannot run Add",)


def test_an_unknown_dimension_asks_for_the_shape():
    module, _ = network("Conv", (1, 3, "height", 8), [np.zeros((4, 3, 3, 3), np.float32)])
    table = table_of(module)
    with pytest.raises(TargetError, match="--shape"):
        table.cost([table.uniform(8, 8)])


def test_a_float_node_has_one_column():
    module, _ = network("Add", (1, 8), [np.ones(8, np.float32)])
    table = table_of(module)
    assert {row.activation_widths for row in table} == {(32,)}
    assert all(isinstance(cell, Cost) for row in table for line in row.costs for cell in line)


def test_weights_of_constant_nodes_are_weights():
    graph = Graph("held")
    value = graph.add_input("x", TensorType(DType.FLOAT32, (1, 8)))
    held = Tensor.of(np.ones((8, 4), np.float32))
    weight = graph.insert(Node("Constant", (), ("w",), name="w", attributes={"value": held})).result
    graph.set_outputs([graph.insert(Node("MatMul", (value, weight), ("y",), name="product")).result])
    module = Module(graph, opsets={"": 21})
    infer_graph(module)
    table = table_of(module, "npu-148")
    assert table.widths == {"x": (2, 4, 8), "product.weight": (1, 4, 8)}
    assert model_bytes(table, [table.uniform(8, 8)])[0] == 8 * 4 + 4 * 4
