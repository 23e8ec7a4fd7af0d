"""LayerTime single layers in ONNX Runtime, and predicting a whole network's latency from them.

Sessions run on the calling thread, and its processor time is read: other programs on a busy machine do not add to it
(but for the caches that they empty). A layer alone also brings its tensors into the layout of its kernel and back,
which a network does once: that share of its time, as ONNX Runtime's profile tells it, is taken off.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from qir.backends.costs.blocks import block_product, block_size, weight_widths
from qir.backends.costs.layers.layer_shapes import layer_names, products_of
from qir.backends.costs.tables.delay_files import DelayTable
from qir.backends.costs.target import Target, load_target
from qir.backends.execution.random_feed import random_feed
from qir.backends.execution.session import OrtSession
from qir.constants import array_of
from qir.errors import TargetError
from qir.graph import Graph, Node, Value
from qir.module import Module
from qir.ops import op_of
from qir.ops.known_integers import known_integers
from qir.tensor import Array, Tensor
from qir.types import DType, TensorType

FLOAT = (32, 32)
INTEGER = (8, 8)
OTHER = (0, 32)
"""Widths of nodes without weights in a delay table."""
LEAST = 0.1
"""Microseconds: what is shorter than a session's overhead cannot be told from it."""
_KINDS = {FLOAT: "float32", INTEGER: "int8"}
TARGET = "cpu-onnxruntime"
"""The target whose file says what ONNX Runtime folds into the layer before."""
REPEATS = 15
_LAYOUT_OPS = frozenset({"ReorderInput", "ReorderOutput", "Transpose"})
"""What ONNX Runtime puts around a layer to change the layout of its tensors."""
WINDOW_SECONDS = 20e-3
"""A group of calls is repeated until a window this long is filled; the mean over a window is one sample of each."""

Key = tuple[str, tuple[int, int]]
"""Name of a layer ("" = the whole network), and widths (weight bits, activation bits)."""
EMPTY: Key = ("", INTEGER)
WHOLE: Key = ("", FLOAT)


@dataclass(frozen=True, slots=True)
class Call:
    """A session's run.

    Attributes:
        run: runs it once.
        share: of its time what a network would spend on it too, 0 to 1.
    """

    run: Callable[[], object]
    share: float = 1.0


Calls = dict[Key, Call]


@dataclass(frozen=True, slots=True)
class LayerTime:
    """Latency of one session.

    Attributes:
        microseconds: median over interleaved repeats.
        spread: distance of the quartiles as a share of the median.
    """

    microseconds: float
    spread: float


def measure_layers(
    module: Module, *, batch: int = 1, repeats: int = REPEATS, target: Target | None = None
) -> tuple[DelayTable, list[str]]:
    """Time every node of a float network on this machine's CPU, one thread, in float; layers as int8 too.

    For a target that has weights of few bits next to float activations, layers are timed at these widths in place of
    int8: products as MatMulNBits with the target's blocks, others, which have no such kernel, in float.

    A session's own overhead (that of an Identity) and changes of layout are taken off. Layers without an int8 kernel
    (LSTM) compute in float at every width and have one time at both.

    Args:
        module: network without fake-quant nodes.
        batch: size of an unknown first dimension.
        repeats: windows, those of all kinds interleaved.
        target: whose widths are timed; without one those of `cpu-onnxruntime`.

    Returns:
        Microseconds of the layers of multiply-accumulates at 32/32 and 8/8 bits (or each width of weights next to 32),
        of other nodes at 0 weight bits, and one line per node.

    Raises:
        TargetError: a shape is not known; asks for it.
    """
    floats: Calls = {}
    weights = () if target is None else weight_widths(target)
    quantized: dict[tuple[int, int], Calls] = {(bits, FLOAT[1]): {} for bits in weights} or {INTEGER: {}}
    layers: set[str] = set()
    names = layer_names(module.graph)
    for node in _apart(module):
        name = names[node]
        if op_of(node).is_expensive:
            layers.add(name)
        floats[name, FLOAT] = _runner(single_layer(module, node, batch), node)
        for widths, calls in quantized.items():
            layer = _quantized_layer(module, node, batch, widths, target)
            if layer is not None:
                calls[name, widths] = _runner(layer, node)
    timings = interleaved([_overhead(), floats, *quantized.values()], repeats)
    overhead = timings.pop(EMPTY).microseconds
    shares = {key: call.share for calls in (floats, *quantized.values()) for key, call in calls.items()}
    times = {key: max((timing.microseconds - overhead) * shares[key], LEAST) for key, timing in timings.items()}
    lines = [f"{overhead:.1f} us of a session without work are taken off"]
    lines += [
        f"{name} {_kind(widths)}: {times[name, widths]:.1f} us (quartiles {timing.spread:.0%})"
        for (name, widths), timing in timings.items()
    ]
    cells: dict[str, dict[tuple[int, int], float]] = {}
    for name, _ in floats:
        whole = times[name, FLOAT]
        found = {widths: times.get((name, widths), whole) for widths in quantized}
        cells[name] = {**found, FLOAT: whole} if name in layers else {OTHER: whole}
    products = products_of(module, batch)
    shapes = {name: found[0].shape for name, found in products.items() if len(found) == found[0].copies == 1}
    return DelayTable(cells, shapes=shapes), lines


def _quantized_layer(
    module: Module, node: Node, batch: int, widths: tuple[int, int], target: Target | None
) -> Module | None:
    """Return a network of one layer at these widths; None where it has no such kernel."""
    if op_of(node).quantizable(node) is None:
        return None
    if widths == INTEGER:
        return single_layer(module, node, batch, integer=True)
    return None if target is None else block_product(node, widths[0], block_size(target), batch)


def _kind(widths: tuple[int, int]) -> str:
    return _KINDS.get(widths, f"{widths[0]}-bit weights")


def predict_latency(module: Module, *, batch: int = 1, repeats: int = REPEATS) -> tuple[LayerTime, float]:
    """Return the whole float network timed, next to the sum of its single layers, in microseconds.

    A session's own overhead (that of an Identity) is taken off every layer and added once; changes of layout are taken
    off. Network and layers are compared in each round, and the median of their ratios counts: a slow moment of the
    machine hits both.
    """
    feeds = random_feed(module, samples=batch)
    whole = OrtSession(module)
    layers: Calls = _overhead()
    names = layer_names(module.graph)
    for node in _apart(module):
        layers[names[node], FLOAT] = _runner(single_layer(module, node, batch), node)
    found = _samples([{WHOLE: Call(lambda: whole.run(feeds))}, layers], repeats)
    network, overhead = found.pop(WHOLE), found.pop(EMPTY)
    sums = overhead + sum(np.maximum(times - overhead, 0.0) * layers[key].share for key, times in found.items())
    total = _timing(network)
    return total, total.microseconds * float(np.median(sums / network))


def interleaved(groups: Sequence[Calls], repeats: int) -> dict[Key, LayerTime]:
    """Return the median and spread of each call."""
    return {key: _timing(values) for key, values in _samples(groups, repeats).items()}


def _timing(samples: Array) -> LayerTime:
    low, median, high = np.quantile(samples, (0.25, 0.5, 0.75))
    return LayerTime(float(median), float((high - low) / median))


def _samples(groups: Sequence[Calls], repeats: int) -> dict[Key, Array]:
    """Return microseconds of each call: float64 [repeats].

    The calls of a group run one after the other, as layers do in a network, so that each finds the caches as the others
    leave them. Rounds go over all groups, so that a slow moment hits all of them alike.
    """
    counts = [_cycles(group) for group in groups]
    samples: dict[Key, list[float]] = {key: [] for group in groups for key in group}
    for _ in range(repeats):
        for group, count in zip(groups, counts, strict=True):
            spent = dict.fromkeys(group, 0.0)
            for _ in range(count):
                for key, call in group.items():
                    start = time.thread_time()
                    call.run()
                    spent[key] += time.thread_time() - start
            for key, seconds in spent.items():
                samples[key].append(seconds / count * 1e6)
    return {key: np.array(values) for key, values in samples.items()}


def _cycles(group: Calls) -> int:
    """Return how often a window holds all calls of a group, after one to warm up."""
    for call in group.values():
        call.run()
    start = time.thread_time()
    for call in group.values():
        call.run()
    return max(int(WINDOW_SECONDS / max(time.thread_time() - start, 1e-7)), 1)


def _apart(module: Module) -> list[Node]:
    """Return nodes that are timed by themselves.

    Those that compute something and do not fold into a layer before them.
    """
    computing = [
        node
        for node in module.graph
        if not node.is_fake_quant
        and not op_of(node).is_view
        and not _is_fixed(node.result)
        and not all(map(_is_fixed, node.operands))
    ]
    folded = {follower for node in computing for follower in _followers(node)}
    return [node for node in computing if node not in folded]


def _followers(node: Node) -> list[Node]:
    """Return ops after a convolution that ONNX Runtime folds into it, each the only user of the one before.

    Those are the target's fused ops, and the addition of another branch, which starts the sums.
    """
    found: list[Node] = []
    shape = op_of(node).layer_shape(node, batch=1)
    users = () if shape is None or shape.is_matrix_product else node.result.users
    while len(users) == 1 and (_is_activation(users[0]) or _adds_branch(users[0])):
        found.append(users[0])
        users = users[0].result.users
    return found


def _is_activation(node: Node) -> bool:
    return node.op in _fused_ops() and all(map(_is_fixed, node.operands[1:]))


def _adds_branch(node: Node) -> bool:
    return (
        node.op == "Add"
        and len({_dims(value) for value in node.operands}) == 1
        and not any(map(_is_fixed, node.operands))
    )


def _dims(value: Value) -> tuple[object, ...] | None:
    return value.shape


@cache
def _fused_ops() -> frozenset[str]:
    return frozenset(load_target(TARGET).fused_ops)


def _is_fixed(value: Value) -> bool:
    return array_of(value) is not None or known_integers(value) is not None


def single_layer(module: Module, node: Node, batch: int = 1, *, integer: bool = False) -> Module:
    """Return a network of one node.

    As int8 its data, weight and result pass through QuantizeLinear and DequantizeLinear.

    What folds into the node is left out: it runs on results that are in registers already.

    Raises:
        TargetError: the shape of an operand is not known.
    """
    graph = Graph("layer")
    operands = op_of(node).quantizable(node) if integer else None
    inputs: list[Value | None] = []
    known: dict[Value, Value] = {}
    for index, value in enumerate(node.inputs):
        if value is None:
            inputs.append(None)
            continue
        if value not in known:
            known[value] = _operand(
                graph, value, batch, quantized=operands is not None and index in {operands.data, operands.weight}
            )
        inputs.append(known[value])
    attributes = {name: attribute.python() for name, attribute in node.attributes.items()}
    names = tuple("y" if i == 0 else "" for i, _ in enumerate(node.results))
    made = Node(node.op, tuple(inputs), names, domain=node.domain, name="layer", attributes=attributes)
    result = graph.insert(made).result
    if operands is not None:
        scale, zero = (
            graph.add_constant("ys", Tensor.of(np.array(0.1, np.float32))),
            graph.add_constant("yz", Tensor.of(np.array(128, np.uint8))),
        )
        result = graph.insert(Node("QuantizeLinear", (result, scale, zero), ("yq",))).result
    result.type = TensorType(DType.UINT8 if operands is not None else _element(node.result), None)
    graph.set_outputs([result])
    return Module(graph, opsets=dict(module.opsets), ir_version=module.ir_version)


def _operand(graph: Graph, value: Value, batch: int, *, quantized: bool) -> Value:
    array = array_of(value)
    if array is None and (integers := known_integers(value)) is not None:
        array = integers.numpy()
    if array is not None:
        if not quantized:
            return graph.add_constant(graph.clock.unique_name("c"), Tensor.of(array))
        step = max(float(np.abs(array).max()) / 127, 1e-8)
        codes = Tensor.of(np.clip(np.round(array / step), -127, 127).astype(np.int8))
        stored, zero = graph.add_constant("w", codes), graph.add_constant("wz", Tensor.of(np.array(0, np.int8)))
        scale = graph.add_constant("ws", Tensor.of(np.array(step, np.float32)))
        return graph.insert(Node("DequantizeLinear", (stored, scale, zero), ("wd",))).result
    shape = _shape(value, batch)
    if not quantized:
        return graph.add_input(graph.clock.unique_name("x"), TensorType(_element(value), shape))
    stored = graph.add_input(graph.clock.unique_name("x"), TensorType(DType.UINT8, shape))
    suffix = str(len(graph.inputs))
    scale = graph.add_constant("xs" + suffix, Tensor.of(np.array(0.05, np.float32)))
    zero = graph.add_constant("xz" + suffix, Tensor.of(np.array(128, np.uint8)))
    return graph.insert(Node("DequantizeLinear", (stored, scale, zero), ("xd" + suffix,))).result


def _element(value: Value) -> DType:
    return value.dtype or DType.FLOAT32


def _shape(value: Value, batch: int) -> tuple[int, ...]:
    shape = value.shape
    if shape is None or any(not isinstance(dim, int) for dim in shape[1:]):
        raise TargetError(f"value {value.name!r}: its shape is not known: give the shapes of the inputs (--shape)")
    return tuple(dim if isinstance(dim, int) else batch for dim in shape)


def _runner(layer: Module, node: Node) -> Call:
    try:
        session = OrtSession(layer)
        feeds = random_feed(layer, samples=1)
        kernels = session.kernel_times(feeds)
    except Exception as error:
        raise TargetError(f"node {node.label!r}: cannot be timed alone in ONNX Runtime: {error}") from error
    layout = sum(time for op, time in kernels.items() if op in _LAYOUT_OPS and op != node.op)
    return Call(lambda: session.run(feeds), 1.0 - layout / max(sum(kernels.values()), 1.0))


def _overhead() -> Calls:
    """Return a session that computes nothing."""
    session, feeds = OrtSession(_empty()), {"x": np.zeros((1, 1), np.float32)}
    return {EMPTY: Call(lambda: session.run(feeds))}


def _empty() -> Module:
    graph = Graph("empty")
    value = graph.add_input("x", TensorType(DType.FLOAT32, (1, 1)))
    node = graph.insert(Node("Identity", (value,), ("y",)))
    node.result.type = TensorType(DType.FLOAT32, (1, 1))
    graph.set_outputs([node.result])
    return Module(graph)
