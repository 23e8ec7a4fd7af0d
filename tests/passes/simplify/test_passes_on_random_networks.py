"""Networks drawn at random: every pass keeps its contract and the outputs."""

import random

import numpy as np
import pytest

from qir.backends.execution.random_feed import random_feed
from qir.passes import PassContext, check_pass, parse_pipeline
from qir.passes.infrastructure.testing import run_onnxruntime
from qir.passes.simplify.canonicalize import RULES, SIMPLIFY
from qir.rewriting.engine import rewrite

STEPS = (*SIMPLIFY.split(","), "equalize-weights")


class Draw:
    """A network of convolutions, BatchNorm, elementwise operators, joins and moves, one value after another."""

    def __init__(self, builder, seed):
        self.random = random.Random(seed)
        self.numbers = np.random.default_rng(seed)
        self.b = builder(opset=self.random.choice([11, 13, 15, 17, 18, 20]))
        self.values = [(self.b.input("x", [2, 4, 6, 6]), 4, 6)]
        for step in range(self.random.randint(4, 14)):
            x, channels, size = self.random.choice(self.values[-3:])
            made = self.random.choice(self.KINDS)(self, f"c{step}", x, channels, size)
            self.values.append(made)

    def conv(self, name, x, channels, size):
        out, kernel = self.random.choice([2, 4, 6]), self.random.choice([1, 3]) if size >= 3 else 1
        pad = self.random.choice([0, 1]) if kernel == 3 else 0
        bias = [self.b.normal(f"{name}b", out)] if self.random.random() < 0.5 else []
        weight = self.b.normal(name, out, channels, kernel, kernel)
        return self.b.node("Conv", [x, weight, *bias], pads=[pad] * 4), out, size + 2 * pad - kernel + 1

    def depthwise(self, name, x, channels, size):
        return self.b.node("Conv", [x, self.b.normal(name, channels, 1, 1, 1)], group=channels), channels, size

    def transposed(self, name, x, channels, size):
        return self.b.node("ConvTranspose", [x, self.b.normal(name, channels, 3, 2, 2)]), 3, size + 1

    def batchnorm(self, name, x, channels, size):
        return self.b.bn(x, channels, name=name), channels, size

    def activation(self, name, x, channels, size):
        if self.random.random() < 0.5:
            return self.b.node(self.random.choice(["Relu", "Identity"]), [x]), channels, size
        low, high = self.random.choice([0.0, -1.0]), self.random.choice([2.0, 6.0])
        return self.b.node("Clip", [x, self.b.const(name, low), self.b.const(f"{name}h", high)]), channels, size

    def constant(self, name, x, channels, size):
        op = self.random.choice(["Add", "Sub", "Mul", "Div", "Max", "Min"])
        shape = self.random.choice([(), (1,), (channels, 1, 1), (1, channels, 1, 1), (size,), (1, 1, 1, size)])
        value = self.b.const(name, self.numbers.uniform(0.5, 2, shape))
        operands = [value, x] if op != "Div" and self.random.random() < 0.3 else [x, value]
        return self.b.node(op, operands), channels, size

    def residual(self, name, x, channels, size):
        other = self.random.choice([v for v in self.values if v[1:] == (channels, size)])
        return self.b.node("Add", [x, other[0]]), channels, size

    def concatenation(self, name, x, channels, size):
        other = self.random.choice([v for v in self.values if v[2] == size])
        return self.b.node("Concat", [x, other[0]], axis=1), channels + other[1], size

    def moved(self, name, x, channels, size):
        y = self.b.node("Transpose", [x], perm=[0, 2, 3, 1])
        y = self.b.node("Relu", [y]) if self.random.random() < 0.5 else y
        y = self.b.node("Mul", [y, self.b.const(name, [2.0])]) if self.random.random() < 0.3 else y
        return self.b.node("Transpose", [y], perm=[0, 3, 1, 2]), channels, size

    def padded(self, name, x, channels, size):
        pads = self.b.ints(name, [0, 0, 1, 1, 0, 0, 0, 0])
        y = self.b.node("Pad", [x, pads])
        return self.b.node("Conv", [y, self.b.normal(f"{name}w", 2, channels, 2, 2)]), 2, size

    def hard_swish(self, name, x, channels, size):
        zero, six, three = (self.b.const(f"{name}{v}", v) for v in (0.0, 6.0, 3.0))
        gate = self.b.node("Clip", [self.b.node("Add", [x, three]), zero, six])
        return self.b.node("Div", [self.b.node("Mul", [x, gate]), six]), channels, size

    KINDS = (
        conv,
        conv,
        depthwise,
        transposed,
        batchnorm,
        batchnorm,
        activation,
        constant,
        constant,
        residual,
        concatenation,
        moved,
        padded,
        hard_swish,
    )

    def module(self):
        x, channels, _ = self.values[-1]
        y = self.b.node("Flatten", [self.b.node("GlobalAveragePool", [x])])
        y = self.b.node("Add", [self.b.node("MatMul", [y, self.b.normal("mm", channels, 5)]), self.b.normal("mb", 5)])
        outputs = [self.b.bn(y, 5, name="last")]
        other = self.random.choice(self.values)[0]
        return self.b.module(*outputs, *([other] if other != "x" else []))


@pytest.mark.parametrize("seed", range(25))
def test_outputs_stay(builder, seed):
    module = Draw(builder, seed).module()
    inputs = random_feed(module, samples=2, unknown=2)
    if not all(np.isfinite(output).all() for output in run_onnxruntime(module, inputs)):
        pytest.skip("the network drawn overflows")
    for name in STEPS:
        check_pass(parse_pipeline(name)[0], module, inputs=inputs, tolerance=5e-5)
    assert "BatchNormalization" not in {node.op for node in module.graph}


@pytest.mark.parametrize("seed", range(25))
def test_rules_come_to_rest_in_one_go(builder, seed):
    module = Draw(builder, seed).module()
    for step in parse_pipeline(SIMPLIFY.split(",canonicalize")[0]):
        step.run(module, PassContext())
    rewrite(module.graph, RULES, opset=module.opsets[""])
    assert rewrite(module.graph, RULES, opset=module.opsets[""]) == {}
