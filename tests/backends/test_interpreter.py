"""The interpreter in numpy and ONNX Runtime, held against the torch executor."""

import numpy as np
import pytest
import torch

import qir
from qir import models
from qir.backends.execution.affine_fit import Correctable, Moments, correctable, fit_affine
from qir.backends.execution.interpreter import Interpreter
from qir.backends.torch.module import TorchModule
from qir.backends.training.affine_correction import fit_affine_correction, pre_activations
from qir.errors import DataError, QirError
from qir.fake_quant import make_fake_quant
from qir.graph import Graph, Node
from qir.passes.analysis.quantized_layers import quantized_layers
from qir.search.network.preparation import load_network, prepare
from qir.types import DType, tensor_type

IMAGES = models.fashion_mnist("calibration").images[:32]


@pytest.fixture(scope="module")
def network():
    module = load_network(models.path("lenet"))
    constraints = prepare(module, "npu-148", IMAGES)
    return module, constraints


def feed(module, images=IMAGES):
    return {module.graph.inputs[0].name: images}


def outputs(network, module, **how):
    return network.run(feed(module), **how)[module.graph.outputs[0]]


def test_outputs_at_the_networks_bits_are_those_of_torch(network):
    module, _ = network
    with torch.no_grad():
        expected = TorchModule(module)(torch.from_numpy(IMAGES))[0].numpy()
    np.testing.assert_allclose(outputs(Interpreter(module), module), expected, rtol=1e-4, atol=1e-4)


def test_only_the_quantizers_that_are_on_move_the_float_network(network):
    module, _ = network
    on = {"conv2.weight": 1, "fc1.input": 2}
    simulated = TorchModule(module)
    with torch.no_grad(), simulated.quantizers_off(but=on):
        expected = simulated(torch.from_numpy(IMAGES))[0].numpy()
    found = outputs(Interpreter(module), module, on=on)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    assert np.abs(found - outputs(Interpreter(module), module, on={})).max() > 0.1


def test_a_rerun_from_the_float_values_is_a_run_with_the_same_quantizers_on(network):
    module, constraints = network
    interpreter = Interpreter(module)
    known = interpreter.run(feed(module), on={}, keep=None)
    for name in constraints.decisions:
        on = {name: constraints.options[name][0]}
        np.testing.assert_array_equal(interpreter.rerun(known, on)[0], outputs(interpreter, module, on=on))


def test_only_what_is_kept_is_answered_and_a_hook_changes_what_comes_after(network):
    module, _ = network
    layer = next(iter(quantized_layers(module.graph))).node
    found = Interpreter(module).run(feed(module), keep=[layer.result])
    assert set(found) == {layer.result, *module.graph.outputs}
    silenced = Interpreter(module).run(feed(module), hook=lambda node, x: x * 0 if node is layer else x)
    assert np.ptp(silenced[module.graph.outputs[0]], axis=0).max() == 0


def test_affine_terms_are_those_that_torch_fits(network):
    module, _ = network
    layers = [layer.node for layer in quantized_layers(module.graph) if correctable(layer.node)]
    found = fit_affine(module, layers, [feed(module)])
    simulated, batch = TorchModule(module), torch.from_numpy(IMAGES)
    expected = fit_affine_correction(simulated, pre_activations(simulated, layers, batch), batch).terms
    assert set(found) == set(expected) != set()
    for node, (gain, offset) in found.items():
        np.testing.assert_allclose(gain, expected[node][0].numpy(), rtol=1e-3)
        np.testing.assert_allclose(offset, expected[node][1].numpy(), atol=1e-3)


def test_a_missing_input_is_named(network):
    with pytest.raises(DataError, match="is missing"):
        Interpreter(network[0]).run({})


def test_control_flow_is_run_and_quantizers_inside_it_are_refused():
    graph = qir.Graph("outer")
    condition = graph.add_input(qir.Value("condition", tensor_type(DType.BOOL, ())))
    x = graph.add_input(qir.Value("x", tensor_type(DType.FLOAT32, (2,))))
    branches = {name: Graph(name) for name in ("then_branch", "else_branch")}
    for (name, inner), op in zip(branches.items(), ("Neg", "Exp"), strict=True):
        inner.set_outputs([inner.insert(Node(op, (x,), (f"{name}.made",))).result])
    chosen = graph.insert(Node("If", (condition,), ("y",), attributes=branches))
    graph.set_outputs([chosen.result], ["y"])
    module = qir.Module(graph, opsets={"": 18})
    given = {"condition": np.array(True), "x": np.array([1, -2], np.float32)}
    np.testing.assert_array_equal(Interpreter(module).run(given)[chosen.result], [-1, 2])

    inner = chosen.subgraphs()[0]
    inner.insert(make_fake_quant(x, name="inside", bits=8, widths=[8], signed=True))
    with pytest.raises(QirError, match="'inside' lies inside If"):
        Interpreter(module)


@pytest.mark.parametrize("form", [Correctable(1, True, True), Correctable(1, True, False), Correctable(1, False, True)])
def test_terms_of_batches_that_are_joined_are_those_of_all_samples(form):
    random = np.random.default_rng(0)
    found = random.standard_normal((12, 5, 4, 3)).astype(np.float32) + 3
    wanted = (1.3 * found - 0.7 + 0.1 * random.standard_normal(found.shape)).astype(np.float32)
    parts = [Moments.of(found[some], wanted[some], 1) for some in (slice(0, 1), slice(1, 5), slice(5, 12))]
    joined = parts[0].joined(parts[1]).joined(parts[2]).terms(form)
    x, y = (np.moveaxis(part, 1, 0).reshape(5, -1).astype(np.float64) for part in (found, wanted))
    for channel in range(5):
        columns = [
            column for column, free in ((x[channel], form.gain), (np.ones_like(x[channel]), form.offset)) if free
        ]
        goal = y[channel] - (0 if form.gain else x[channel])
        solved = list(np.linalg.lstsq(np.stack(columns, 1), goal, rcond=None)[0])
        gain = solved.pop(0) if form.gain else 1.0
        offset = solved.pop(0) if form.offset else 0.0
        assert np.allclose((joined[0][channel], joined[1][channel]), (gain, offset), atol=1e-4)
