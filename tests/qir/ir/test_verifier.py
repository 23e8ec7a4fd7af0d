"""Each invariant is broken by hand, past the writers that would refuse or repair it."""

import numpy as np
import pytest

import qir
from qir.attributes import Attribute
from qir.constraints import OperandRules
from qir.errors import VerifyError
from qir.fake_quant import FakeQuant, make_fake_quant
from qir.graph import Graph, Node, Value
from qir.module import Function, Module
from qir.node_rules import check_bias
from qir.tensor import Tensor
from qir.types import DType, TensorType

FLOAT = TensorType(DType.FLOAT32, (1, 4))


def small():
    graph = Graph("main")
    x = graph.add_input(Value("x", FLOAT))
    w = graph.add_constant("w", Tensor.of(np.ones((4, 4), np.float32)))
    product = graph.insert(Node("MatMul", [x, w], ["p"], name="fc"))
    product.result.type = FLOAT
    relu = graph.insert(Node("Relu", [product.result], ["y"]))
    graph.set_outputs([relu.result])
    module = Module(graph)
    qir.verify(module)
    return module


def branch(name, dtype=DType.FLOAT32):
    graph = Graph(name)
    made = graph.insert(Node("Constant", [], [f"{name}.c"], attributes={"value": Tensor.of(np.zeros(1), dtype=dtype)}))
    made.result.type = TensorType(dtype, (1,))
    graph.set_outputs([made.result])
    return graph


def swap_order(module):
    first, second = module.graph.nodes
    module.graph.move(second, before=first)


def drop_use(module):
    module.graph.inputs[0]._uses.clear()


def stale_use(module):
    Node("Relu", [module.graph.inputs[0]])


def wrong_owner(module):
    module.graph.nodes[0].result.index = 3


def wrong_link(module):
    module.graph.nodes[1]._previous = None


def wrong_count(module):
    module.graph._length = 7


def same_name(module):
    module.graph.nodes[1].result.name = "p"


def nameless_operand(module):
    module.graph.nodes[0].result.name = ""


def constant_without_tensor(module):
    module.graph.constants[0]._constant = None


def constant_of_other_type(module):
    module.graph.constants[0].type = TensorType(DType.INT8, (4, 4))


def output_names(module):
    module.graph.output_names = ()


def erased_operand(module):
    graph = module.graph
    value = graph.add_input("gone")
    graph.remove_input(value)
    graph.nodes[1].set_input(0, value)


def too_many_operands(module):
    module.graph.nodes[1].set_inputs([*module.graph.nodes[1].inputs, module.graph.inputs[0]])


def left_out_operand(module):
    module.graph.nodes[0].set_input(1, None)


def unknown_attribute(module):
    module.graph.nodes[1].set_attribute("slope", 1.0)


def wrong_attribute_kind(module):
    graph = module.graph
    graph.insert(Node("Softmax", [graph.inputs[0]], attributes={"axis": 1.0}))


def missing_attribute(module):
    graph = module.graph
    graph.insert(Node("Concat", [graph.inputs[0]]))


def wrong_operand_type(module):
    graph = module.graph
    graph.insert(Node("Relu", [graph.add_input(Value("b", TensorType(DType.BOOL, (1,))))]))


def wrong_result_type(module):
    module.graph.nodes[1].result.type = TensorType(DType.INT8, (1, 4))


def wrong_result_shape(module):
    module.graph.nodes[1].result.type = TensorType(DType.FLOAT32, (1, 5))


def missing_opset(module):
    graph = module.graph
    graph.insert(Node("Gelu", [graph.inputs[0]], domain="com.microsoft"))


def deprecated_op(module):
    graph = module.graph
    graph.insert(Node("Upsample", [graph.inputs[0], graph.inputs[0]]))


def bits_outside_widths(module):
    graph = module.graph
    graph.insert(make_fake_quant(graph.inputs[0], name="q", bits=3, widths=(2, 4), signed=True))


def fake_quant_of_codes(module):
    graph = module.graph
    x = graph.add_input(Value("i", TensorType(DType.INT8, (1,))))
    graph.insert(make_fake_quant(x, name="q", bits=2, widths=(2, 4), signed=True))


def bias_of_other_type(module):
    graph = module.graph
    x = graph.add_input(Value("img", TensorType(DType.FLOAT16, (1, 1, 4, 4))))
    w = graph.add_constant("k", Tensor.of(np.ones((1, 1, 1, 1), np.float16)))
    b = graph.add_constant("b", Tensor.of(np.ones(1, np.float32)))
    graph.insert(Node("Conv", [x, w, b]))


def branches_differ(module):
    graph = module.graph
    c = graph.add_input(Value("c", TensorType(DType.BOOL, ())))
    made = graph.insert(
        Node("If", [c], attributes={"then_branch": branch("a"), "else_branch": branch("b", DType.INT64)})
    )
    made.result.type = TensorType(DType.FLOAT32, (1,))


def subgraph_of_no_parent(module):
    branches_differ(module)
    module.graph._last.subgraphs()[0].parent = None


def clock_of_its_own(module):
    graph = module.graph
    node = graph.insert(Node("Identity", [graph.inputs[0]]))
    node._attributes["body"] = Attribute.of(Graph("stray"))
    node._attributes["body"].value.parent = node


def hidden_name(module):
    graph = module.graph
    inner = Graph("inner")
    inner.insert(Node("Relu", [graph.inputs[0]], ["x"]))
    inner.set_outputs([inner.insert(Node("Neg", [graph.inputs[0]], ["n"])).result])
    c = graph.add_input(Value("c", TensorType(DType.BOOL, ())))
    graph.insert(Node("If", [c], attributes={"then_branch": inner, "else_branch": branch("b")}))


def inner_value_outside(module):
    graph = module.graph
    branches_differ(module)
    graph.nodes[1].set_input(0, graph._last.subgraphs()[0].nodes[0].result)


def recursive_function(module):
    body = Graph("f")
    x = body.add_input("a")
    body.set_outputs([body.insert(Node("f", [x], domain="mine")).result])
    module.add_function(Function("mine", "f", body))


def misfiled_function(module):
    body = Graph("f")
    body.set_outputs([body.add_input("a")])
    module.add_function(Function("mine", "f", body))
    module.functions["mine", "g", ""] = module.functions.pop(("mine", "f", ""))


def call_with_too_much(module):
    graph = module.graph
    body = Graph("f")
    body.set_outputs([body.add_input("a")])
    module.add_function(Function("mine", "f", body))
    graph.insert(Node("f", [graph.inputs[0], graph.inputs[0]], domain="mine"))


BROKEN = [
    ("definition-dominates-use", swap_order),
    ("definition-dominates-use", erased_operand),
    ("definition-dominates-use", inner_value_outside),
    ("use-list", drop_use),
    ("use-list", stale_use),
    ("owner", wrong_owner),
    ("node-list", wrong_link),
    ("node-list", wrong_count),
    ("unique-name", same_name),
    ("unique-name", nameless_operand),
    ("unique-name", hidden_name),
    ("constant", constant_without_tensor),
    ("constant", constant_of_other_type),
    ("output-names", output_names),
    ("subgraph-scope", subgraph_of_no_parent),
    ("subgraph-scope", clock_of_its_own),
    ("subgraph-results", branches_differ),
    ("arity", too_many_operands),
    ("arity", left_out_operand),
    ("attributes", unknown_attribute),
    ("attributes", wrong_attribute_kind),
    ("attributes", missing_attribute),
    ("operand-type", wrong_operand_type),
    ("operand-type", fake_quant_of_codes),
    ("result-type", wrong_result_type),
    ("result-type", wrong_result_shape),
    ("opset", missing_opset),
    ("opset", deprecated_op),
    ("fake-quant", bits_outside_widths),
    ("function", recursive_function),
    ("function", misfiled_function),
    ("call", call_with_too_much),
]


@pytest.mark.parametrize(("rule", "damage"), BROKEN, ids=[damage.__name__ for _, damage in BROKEN])
def test_a_broken_graph_names_its_invariant(rule, damage):
    module = small()
    damage(module)
    with pytest.raises(VerifyError) as caught:
        qir.verify(module)
    assert caught.value.rule == rule, caught.value


def test_a_bias_of_another_type_is_refused():
    module = small()
    bias_of_other_type(module)
    with pytest.raises(VerifyError, match=r"bias-type|operand-type"):
        qir.verify(module)


def test_the_rule_on_biases_names_itself():
    module = small()
    bias_of_other_type(module)
    with pytest.raises(VerifyError) as caught:
        check_bias(next(node for node in module.graph if node.op == "Conv"))
    assert caught.value.rule == "bias-type"


def test_only_legal_pairs_pass_with_rules():
    module = small()
    graph = module.graph
    product = graph.nodes[0]
    for index, bits in ((0, 8), (1, 4)):
        quantizer = make_fake_quant(product.inputs[index], name=f"q{index}", bits=bits, widths=(4, 8), signed=True)
        graph.insert(quantizer, before=product)
        product.set_input(index, quantizer.result)
    rules = OperandRules((4, 8), (4, 8), frozenset({(8, 8), (4, 4)}))
    qir.verify(module)
    with pytest.raises(VerifyError, match="legal-pair"):
        qir.verify(module, rules)
    FakeQuant(quantizer).bits = 8
    qir.verify(module, rules)


def test_a_policy_write_is_verified_although_the_version_stands_still():
    module = small()
    quantizer = module.graph.insert(
        make_fake_quant(module.graph.inputs[0], name="q", bits=4, widths=(2, 4), signed=True)
    )
    qir.verify(module)
    FakeQuant(quantizer).bits = 7
    with pytest.raises(VerifyError, match="candidate widths"):
        qir.verify(module)
