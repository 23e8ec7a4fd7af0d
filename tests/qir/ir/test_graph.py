import networkx as nx
import pytest

import qir
from qir.errors import QirError
from qir.fake_quant import FakeQuant, make_fake_quant
from qir.graph import Graph, Node, Value
from qir.module import Module
from qir.types import DType, TensorType
from qir.views.drawing import to_svg
from qir.views.networkx import to_networkx


def chain(length=4):
    graph = Graph("main")
    value = graph.add_input(Value("x", TensorType(DType.FLOAT32, (1,))))
    for index in range(length):
        value = graph.insert(Node("Relu", [value], [f"v{index}"], name=f"n{index}")).result
    graph.set_outputs([value])
    return graph


def names(nodes):
    return [node.name for node in nodes]


def test_erasing_the_current_node_goes_on_with_the_next():
    graph, seen = chain(), []
    for node in graph:
        seen.append(node.name)
        node.result.replace_all_uses_with(node.inputs[0])
        graph.erase(node)
    assert seen == ["n0", "n1", "n2", "n3"]
    assert len(graph) == 0
    assert graph.outputs == graph.inputs


def test_a_node_erased_ahead_is_not_visited_and_one_inserted_after_is():
    graph, seen = chain(), []
    for node in graph:
        seen.append(node.name)
        if node.name == "n0":
            gone = node.next
            gone.result.replace_all_uses_with(node.result)
            graph.erase(gone)
            graph.insert(Node("Neg", [node.result], name="after"), after=node)
            graph.insert(Node("Neg", node.inputs, name="before"), before=node)
    assert seen == ["n0", "after", "n2", "n3"]
    assert names(graph) == ["before", "n0", "after", "n2", "n3"]


def test_a_used_node_and_the_return_node_are_not_erased():
    graph = chain()
    for node in (graph.nodes[0], graph.return_node):
        with pytest.raises(QirError):
            graph.erase(node)
    with pytest.raises(QirError):
        graph.insert(Node("Relu"), after=graph.return_node)
    qir.verify(Module(graph))


def test_replacing_uses_reaches_every_operand_and_the_outputs():
    graph = Graph("main")
    x, y = graph.add_input("x"), graph.add_input("y")
    node = graph.insert(Node("Concat", [x] * 5000, attributes={"axis": 0}))
    graph.set_outputs([x, node.result], ["same", "all"])
    x.replace_all_uses_with(y)
    assert not x.uses
    assert set(node.inputs) == {y}
    assert graph.outputs[0] is y
    assert graph.output_names == ("same", "all")
    assert [use.index for use in y.uses if use.node is node] == list(range(5000))


def test_erasing_a_node_frees_what_its_subgraph_captured():
    graph = Graph("main")
    x = graph.add_input("x")
    inner = Graph("inner")
    inner.set_outputs([inner.insert(Node("Relu", [x])).result])
    node = graph.insert(Node("If", [x], attributes={"then_branch": inner}))
    assert inner.clock is graph.clock
    assert {use.node.op for use in x.uses} == {"Relu", "If"}
    graph.erase(node)
    assert not x.uses


def test_a_value_has_one_owner():
    value = Value("v")
    Node("Relu", [], [value])
    with pytest.raises(QirError, match="owned already"):
        Node("Relu", [], [value])
    with pytest.raises(QirError, match="owned already"):
        Graph("g").add_input(value)


def test_bits_advance_only_the_policy_version():
    graph = chain()
    node = graph.insert(make_fake_quant(graph.inputs[0], name="q", bits=2, widths=(2, 4), signed=True))
    version, policy = graph.clock.version, graph.clock.policy_version
    FakeQuant(node).bits = 4
    assert (graph.clock.version, graph.clock.policy_version) == (version, policy + 1)
    assert node.result.type.quant.bits == 4


def test_a_clone_is_equal_and_independent():
    module = Module(chain())
    copy = module.clone()
    assert qir.print_module(copy) == qir.print_module(module)
    copy.graph.nodes[0].set_attribute("alpha", 1.0)
    assert not module.graph.nodes[0].attributes
    assert copy.clock is not module.clock


def test_moving_keeps_the_list_right():
    graph = Graph("main")
    x = graph.add_input("x")
    first, second, third = (graph.insert(Node("Relu", [x], name=name)) for name in "abc")
    graph.move(first, after=third)
    graph.move(second, before=second)
    assert names(graph) == ["b", "c", "a"]
    assert names(reversed(graph)) == ["a", "c", "b"]


def test_networkx_sees_every_operand_and_is_frozen():
    graph = chain()
    view = to_networkx(graph)
    assert list(nx.topological_sort(view)) == [graph.inputs[0], *graph, graph.return_node]
    with pytest.raises(nx.NetworkXError):
        view.add_node(1)


def test_drawings_show_bits():
    graph = chain()
    graph.insert(make_fake_quant(graph.inputs[0], name="q<1>", bits=3, widths=(3,), signed=True))
    svg = to_svg(graph)
    assert "3 bits" in svg
    assert "q&lt;1&gt;" in svg
    assert svg in Module(graph)._repr_html_()
