"""The torch interpreter: what it computes, changes of policy, gradients, writing back."""

import numpy as np
import pytest
import torch

from qir.backends.execution.session import OrtSession
from qir.backends.torch.module import TorchModule
from qir.backends.torch.weights import fitted_ranges
from qir.errors import QirError
from qir.fake_quant import FakeQuant, quantizers
from qir.graph import Graph, Node
from qir.module import Module
from qir.quantizers import get_scheme
from qir.tensor import Tensor
from qir.types import DType, TensorType

F = DType.FLOAT32


def images(count=5):
    return torch.rand((count, 1, 12, 12), generator=torch.Generator().manual_seed(0))


def test_float_network_equals_onnx_runtime(make_network):
    module = make_network(quantized=False)
    (found,) = TorchModule(module)(images())
    wanted = OrtSession(module).run({"image": images().numpy()})["logits"]
    np.testing.assert_allclose(found.detach().numpy(), wanted, rtol=1e-5, atol=1e-6)


def test_switching_the_quantizers_off_gives_the_float_network(network, make_network):
    quantized = TorchModule(network)
    with quantized.quantizers_off():
        (found,) = quantized(images())
    (wanted,) = TorchModule(make_network(quantized=False))(images())
    assert torch.equal(found, wanted)


def test_weights_and_activations_lie_on_the_grids_of_the_schemes(network):
    made = TorchModule(network)
    made.set_policy({"conv1.weight": 4, "conv2.input": 2})
    values = made(images(), intermediates=["conv1.weight.quantized", "conv2.input.quantized", "relu"])
    nodes = quantizers(network.graph)
    weight = next(v for v in network.graph.constants if v.name == "conv1.weight").constant.numpy()
    for name, bits, x, axis in (
        ("conv1.weight", 4, weight, 0),
        ("conv2.input", 2, values["relu"].detach().numpy(), None),
    ):
        wanted = get_scheme("uniform").fake_quantize(x, nodes[name].grid(bits), axis)
        np.testing.assert_array_equal(values[f"{name}.quantized"].detach().numpy(), wanted)
    assert set(values) == {"logits", "conv1.weight.quantized", "conv2.input.quantized", "relu"}


def test_biases_are_codes_of_the_accumulator(network):
    seen = {}

    def keep(node, result):
        seen[node.name] = result
        return result

    zero = torch.zeros(1, 1, 12, 12)
    made = TorchModule(network)
    made.set_policy({"conv1.input": 2, "conv1.weight": 2})
    made(zero, hook=keep)
    nodes = quantizers(network.graph)
    scale = nodes["conv1.input"].grid(2).scale[0] * nodes["conv1.weight"].grid(2).scale
    bias = seen["conv1"][0, :, 0, 0].detach().numpy()
    true = next(v for v in network.graph.constants if v.name == "conv1.bias").constant.numpy()
    np.testing.assert_array_equal(bias, np.rint(true.astype(np.float64) / scale).astype(np.float32) * scale)
    TorchModule(network, quantize_bias=False)(zero, hook=keep)
    np.testing.assert_array_equal(seen["conv1"][0, :, 0, 0].detach().numpy(), true)


def test_a_policy_set_equals_a_network_built_at_it(network):
    policy = dict.fromkeys(quantizers(network.graph), 4) | {"fc.weight": 2}
    switched = TorchModule(network)
    for bits in (2, 8):
        switched.set_policy(dict.fromkeys(policy, bits))
        switched(images())
    switched.set_policy(policy)
    made = network.clone()
    for name, bits in policy.items():
        quantizers(made.graph)[name].bits = bits
    assert torch.equal(switched(images())[0], TorchModule(made)(images())[0])
    assert FakeQuant(network.graph.fake_quants()[0]).bits == 8, "the graph's own bits stay"


def test_widths_per_channel_and_pruned_channels(network):
    made = TorchModule(network)
    made.set_policy({"conv1.weight": (0, 2, 4, 8, 2, 0)})
    found = made(images(), intermediates=["conv1.weight.quantized"])["conv1.weight.quantized"]
    for channel, bits in enumerate((0, 2, 4, 8, 2, 0)):
        if bits == 0:
            assert not found[channel].any()
            continue
        made.set_policy({"conv1.weight": bits})
        whole = made(images(), intermediates=["conv1.weight.quantized"])["conv1.weight.quantized"]
        assert torch.equal(found[channel], whole[channel])


def test_unknown_quantizers_widths_and_values_are_refused(network):
    made = TorchModule(network)
    with pytest.raises(QirError, match="nothing"):
        made.set_policy({"nothing": 4})
    with pytest.raises(QirError, match="3 bits"):
        made.set_policy({"fc.weight": 3})
    with pytest.raises(QirError, match="no value"):
        made(images(), intermediates=["nothing"])
    with pytest.raises(QirError, match="inputs"):
        made(images(), images())


def test_gradients_pass_straight_through_where_nothing_saturates(network):
    made = TorchModule(network, trainable=True)
    (logits,) = made(images())
    logits.square().sum().backward()
    for name, parameter in made.trainable_constants().items():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_training_sees_new_weights_and_inference_caches_them(network):
    made = TorchModule(network)
    (before,) = made(images())
    with torch.no_grad():
        made.trainable_constants()["fc.weight"].neg_()
    assert torch.equal(made(images())[0], before), "quantized weights are cached"
    made.forget_weights()
    assert not torch.equal(made(images())[0], before)


def test_writing_back_marks_ranges_stale_or_recalibrates(network):
    made = TorchModule(network)
    with torch.no_grad():
        made.trainable_constants()["fc.weight"].mul_(0.5)
    copy = network.clone()
    made.write_back(copy)
    assert quantizers(copy.graph)["fc.weight"].is_stale
    assert not quantizers(copy.graph)["conv1.weight"].is_stale
    copy = network.clone()
    made.write_back(copy, recalibrate=lambda node, weight: node.calibration * np.float32(0.5))
    assert not quantizers(copy.graph)["fc.weight"].is_stale
    copy = network.clone()
    made.write_back(copy, recalibrate=fitted_ranges)
    node = quantizers(copy.graph)["fc.weight"]
    weight = made.trainable_constants()["fc.weight"].detach().numpy()
    np.testing.assert_array_equal(node.calibration[0], get_scheme("uniform").fit(weight, 2, True, axis=0))


@pytest.mark.parametrize("scheme", ["lsq", "pact"])
def test_learned_ranges_receive_gradients_and_are_written_back(scheme, make_network):
    network = make_network(scheme)
    made = TorchModule(network)
    ranges = made.learn_ranges()
    assert set(ranges) == set(quantizers(network.graph))
    made(images())[0].square().sum().backward()
    assert all(parameter.grad is not None for parameter in ranges.values())
    assert any(parameter.grad.abs().sum() > 0 for parameter in ranges.values())
    with torch.no_grad():
        ranges["conv2.input"].mul_(0.5)
    made.write_back(network)
    node = quantizers(network.graph)["conv2.input"]
    assert node.calibration[:, 0, 1].tolist() == [2.0, 2.0, 1.0]


def scalar(graph, name, value, dtype=np.float32):
    return graph.add_constant(name, Tensor.of(np.asarray(value, dtype)))


def branch(op, outer):
    graph = Graph(op)
    graph.set_outputs((graph.insert(Node(op, (outer,))).result,))
    return graph


def test_if_takes_the_branch_and_sees_outer_values():
    graph = Graph()
    x = graph.add_input("x", TensorType(F, (3,)))
    condition = graph.add_input("c", TensorType(DType.BOOL, ()))
    outer = graph.insert(Node("Abs", (x,))).result
    node = graph.insert(
        Node("If", (condition,), attributes={"then_branch": branch("Neg", outer), "else_branch": branch("Exp", outer)})
    )
    graph.set_outputs((node.result,))
    module = TorchModule(Module(graph))
    x = torch.tensor([1.0, -2.0, 3.0])
    assert torch.equal(module(x, torch.tensor(True))[0], -x.abs())
    assert torch.equal(module(x, torch.tensor(False))[0], x.abs().exp())


def test_loop_carries_values_and_stacks_scans():
    body = Graph("body")
    turn = body.add_input("turn", TensorType(DType.INT64, ()))
    body.add_input("go", TensorType(DType.BOOL, ()))
    total = body.add_input("total", TensorType(F, (2,)))
    graph = Graph()
    x = graph.add_input("x", TensorType(F, (2,)))
    new = body.insert(Node("Add", (total, x))).result
    more = body.insert(Node("Less", (turn, scalar(body, "three", 3, np.int64)))).result
    body.set_outputs((more, new, body.insert(Node("Identity", (new,))).result))
    node = graph.insert(
        Node(
            "Loop",
            (scalar(graph, "ten", 10, np.int64), None, scalar(graph, "zero", [0, 0])),
            2,
            attributes={"body": body},
        )
    )
    graph.set_outputs(node.results)
    last, scan = TorchModule(Module(graph))(torch.tensor([1.0, 2.0]))
    assert last.tolist() == [4, 8]
    assert scan[:, 0].tolist() == [1, 2, 3, 4]


def test_scan_walks_along_its_axis():
    body = Graph("body")
    state, x = (body.add_input(name, TensorType(F, (2,))) for name in ("state", "x"))
    new = body.insert(Node("Add", (state, x))).result
    body.set_outputs((new, body.insert(Node("Identity", (new,))).result))
    graph = Graph()
    x = graph.add_input("x", TensorType(F, (3, 2)))
    node = graph.insert(
        Node("Scan", (scalar(graph, "zero", [0, 0]), x), 2, attributes={"body": body, "num_scan_inputs": 1})
    )
    graph.set_outputs(node.results)
    data = torch.arange(6.0).reshape(3, 2)
    last, scan = TorchModule(Module(graph))(data)
    assert torch.equal(last, data.sum(0))
    assert torch.equal(scan, data.cumsum(0))


def test_names_that_collide_stay_apart():
    graph = Graph()
    a, b = scalar(graph, "w.a", [1.0]), scalar(graph, "w_a", [5.0])
    graph.set_outputs((graph.insert(Node("Sub", (a, b))).result,))
    assert TorchModule(Module(graph))()[0].tolist() == [-4.0]


def test_ops_without_lowering_are_named():
    graph = Graph()
    graph.insert(Node("Mystery", (graph.add_input("x"),), domain="custom"))
    with pytest.raises(QirError, match="Mystery"):
        TorchModule(Module(graph))
