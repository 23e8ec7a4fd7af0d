"""TensorFlow Lite forms of single ops."""

from __future__ import annotations

from typing import Any

import numpy as np

from qir.backends.integer.windows import Window
from qir.backends.vela.grids import kernel_codes, real_values
from qir.backends.vela.network import CHANNELS_FIRST, CHANNELS_LAST, Network, activation_of, lowers
from qir.backends.vela.tflite import ACTIVATIONS, SAME, VALID, TfliteGrid
from qir.errors import TargetError
from qir.graph import Node
from qir.ops import op_of

SIGMOID_GRID, TANH_GRID = TfliteGrid((1 / 256,), -128), TfliteGrid((1 / 128,), 0)
"""Grids that TensorFlow Lite fixes for LOGISTIC and SOFTMAX, and for TANH."""


@lowers("Conv")
def _convolution(network: Network, node: Node) -> None:
    """CONV_2D, or DEPTHWISE_CONV_2D where each group has one input channel."""
    weight = node.input(1)
    shape = op_of(node).layer_shape(node, batch=1)
    if weight is None or shape is None or len(shape.spatial) != 2:
        raise _unsupported(node, "a convolution over two dimensions with a known shape")
    codes, scale = kernel_codes(weight, 0)
    depthwise = shape.groups > 1 and shape.groups == shape.in_channels
    order = (1, 2, 3, 0) if depthwise else (0, 2, 3, 1)
    grid = TfliteGrid(scale, axis=3 if depthwise else 0)
    filters = network.made.constant(weight.name, codes.transpose(order), grid)
    window = Window.of(node, shape.spatial, shape.kernel)
    source, padding = _slid(network, node, window, shape.output_spatial)
    activation, value = network.with_activation(node)
    options: dict[str, Any] = _strides(window, padding) | {
        "fused_activation_function": ACTIVATIONS[activation],
        "dilation_h_factor": window.dilations[0],
        "dilation_w_factor": window.dilations[1],
    }
    bias = _bias(network, node, source, scale, shape.out_channels)
    result = [network.result(node, value=value)]
    if depthwise:
        options["depth_multiplier"] = shape.out_channels // shape.in_channels
        network.made.operator("DEPTHWISE_CONV_2D", [source, filters, bias], result, "DepthwiseConv2DOptions", **options)
    else:
        network.made.operator("CONV_2D", [source, filters, bias], result, "Conv2DOptions", **options)


@lowers("Gemm", "MatMul")
def _fully_connected(network: Network, node: Node) -> None:
    """FULLY_CONNECTED: [..., in] x [out, in] transposed."""
    operands = op_of(node).quantizable(node)
    weight = node.input(1)
    source = network.tensor(node, 0)
    rank = len(network.made.shapes[source])
    plain = node.attribute("alpha", 1.0) == node.attribute("beta", 1.0) == 1.0
    if weight is None or operands is None or operands.weight_axis is None or not plain or rank == 4:
        raise _unsupported(node, "a product of an activation of rank 2 or 3 and a weight, without alpha and beta")
    codes, scale = kernel_codes(weight, operands.weight_axis)
    if operands.weight_axis == 1:
        codes = codes.transpose()
    filters = network.made.constant(weight.name, np.ascontiguousarray(codes), TfliteGrid(scale))
    activation, value = network.with_activation(node)
    bias = _bias(network, node, source, scale, len(codes))
    network.made.operator(
        "FULLY_CONNECTED",
        [source, filters, bias],
        [network.result(node, value=value)],
        "FullyConnectedOptions",
        fused_activation_function=ACTIVATIONS[activation],
        keep_num_dims=rank > 2,
    )


@lowers("Add", "Sub", "Mul")
def _arithmetic(network: Network, node: Node) -> None:
    """ADD, SUB, MUL."""
    inputs = [network.operand(node, 0), network.operand(node, 1)]
    activation, value = network.with_activation(node)
    network.made.operator(
        node.op.upper(),
        inputs,
        [network.result(node, value=value)],
        f"{node.op}Options",
        fused_activation_function=ACTIVATIONS[activation],
    )


@lowers("Relu", "Clip")
def _activation(network: Network, node: Node) -> None:
    """RELU, RELU6: those that do not run with the op before them."""
    kind = activation_of(node)
    if kind is None:
        raise _unsupported(node, "bounds 0 and 6, or 0 and none")
    network.made.operator(kind, [network.tensor(node, 0)], [network.result(node)])


@lowers("Sigmoid")
def _sigmoid(network: Network, node: Node) -> None:
    """LOGISTIC, whose result lies on a grid of its own."""
    _on_fixed_grid(network, node, "LOGISTIC", SIGMOID_GRID)


@lowers("Tanh")
def _tanh(network: Network, node: Node) -> None:
    """TANH, whose result lies on a grid of its own."""
    _on_fixed_grid(network, node, "TANH", TANH_GRID)


@lowers("HardSwish")
def _hard_swish(network: Network, node: Node) -> None:
    """HARD_SWISH."""
    network.made.operator("HARD_SWISH", [network.tensor(node, 0)], [network.result(node)], "HardSwishOptions")


@lowers("Softmax")
def _softmax(network: Network, node: Node) -> None:
    """SOFTMAX over the last axis."""
    rank = len(network.shape(node.result))
    axis = node.attribute("axis", -1)
    if rank == 4 or axis % rank != rank - 1:
        raise _unsupported(node, "the last axis of a tensor of rank 1 to 3")
    _on_fixed_grid(network, node, "SOFTMAX", SIGMOID_GRID, "SoftmaxOptions", beta=1.0)


@lowers("MaxPool", "AveragePool")
def _pool(network: Network, node: Node) -> None:
    """MAX_POOL_2D, AVERAGE_POOL_2D: the result keeps the operand's grid."""
    source = network.tensor(node, 0)
    shape = network.made.shapes[source]
    kernel = node.attribute("kernel_shape")
    if len(node.results) > 1 or len(shape) != 4 or set(node.attribute("dilations", (1,))) != {1}:
        raise _unsupported(node, "windows over two dimensions, without dilation and indices")
    window = Window.of(node, shape[1:3], kernel)
    highest = not op_of(node).is_average
    source, padding = _slid(network, node, window, network.shape(node.result)[1:3], fill=-128 if highest else None)
    if (
        not highest
        and any((*window.begin, *window.end))
        and (padding == SAME) == node.attribute("count_include_pad", 0)
    ):
        raise _unsupported(node, "padding as TensorFlow Lite has it (SAME, not counted) or counted")
    name = "MAX_POOL_2D" if highest else "AVERAGE_POOL_2D"
    options = _strides(window, padding) | {"filter_height": kernel[0], "filter_width": kernel[1]}
    result = network.result(node, network.grid_of(source))
    network.made.operator(name, [source], [result], "Pool2DOptions", **options)


@lowers("GlobalMaxPool")
def _global_max_pool(network: Network, node: Node) -> None:
    """MAX_POOL_2D over the whole image."""
    source = network.tensor(node, 0)
    _, height, width, _ = network.made.shapes[source]
    options = {"padding": VALID, "stride_h": 1, "stride_w": 1, "filter_height": height, "filter_width": width}
    network.made.operator(
        "MAX_POOL_2D", [source], [network.result(node, network.grid_of(source))], "Pool2DOptions", **options
    )


@lowers("GlobalAveragePool", "ReduceMean")
def _mean(network: Network, node: Node) -> None:
    """MEAN over rows and columns, or over the axes that the node names."""
    source = network.tensor(node, 0)
    shape = network.made.shapes[source]
    given = real_values(node.input(1)) if len(node.inputs) > 1 else None
    default = (2, 3) if op_of(node).since_version == 1 and not node.attributes else tuple(range(len(shape)))
    axes = default if given is None and node.attribute("axes") is None else node.attribute("axes", given)
    kept = bool(node.attribute("keepdims", 1))
    wanted = sorted(int(axis) % len(shape) for axis in np.asarray(axes).reshape(-1))
    if len(shape) == 4:
        if not kept and set(wanted) != {2, 3}:
            raise _unsupported(node, "kept dimensions, or the mean over rows and columns")
        wanted = sorted(CHANNELS_LAST.index(axis) for axis in wanted)
    inputs = [source, network.integers(network.names[node], wanted)]
    network.made.operator("MEAN", inputs, [network.result(node)], "ReducerOptions", keep_dims=kept)


@lowers("Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity", "Dropout")
def _view(network: Network, node: Node) -> None:
    """RESHAPE; where channels and pixels mix, between TRANSPOSEs to the order [N, C, H, W] and back."""
    source, name = network.tensor(node, 0), network.names[node]
    shape = network.shape(node.result)
    if shape == network.made.shapes[source]:
        network.at[node.result] = source
        return
    if _mixes(network.made.shapes[source]):
        source = network.transposed(source, CHANNELS_FIRST)
    if _mixes(shape):
        first = tuple(shape[axis] for axis in CHANNELS_FIRST)
        network.at[node.result] = network.transposed(_reshaped(network, source, first, name), CHANNELS_LAST)
    else:
        network.at[node.result] = _reshaped(network, source, shape, name)


@lowers("Transpose")
def _transpose(network: Network, node: Node) -> None:
    """TRANSPOSE, its axes renumbered where channels are last."""
    source = network.tensor(node, 0)
    rank = len(network.made.shapes[source])
    order = list(node.attribute("perm") or range(rank - 1, -1, -1))
    if rank == 4:
        order = [CHANNELS_LAST.index(order[axis]) for axis in CHANNELS_LAST]
    network.transposed(source, order, network.result(node, network.grid_of(source)))


@lowers("Concat")
def _concat(network: Network, node: Node) -> None:
    """CONCATENATION: operands and result lie on one grid, that of the result's quantizer or of the first operand."""
    sources = [network.operand(node, index) for index in range(len(node.inputs))]
    quantized = any(user.is_fake_quant for user in node.result.users)
    result = network.result(node, None if quantized else network.grid_of(sources[0]))
    grid = network.grid_of(result)
    rank = len(network.made.shapes[result])
    axis = node.attribute("axis") % rank
    moved = [network.on_grid(source, grid, f"{network.names[node]}.operand{i}") for i, source in enumerate(sources)]
    place = CHANNELS_LAST.index(axis) if rank == 4 else axis
    network.made.operator("CONCATENATION", moved, [result], "ConcatenationOptions", axis=place)


@lowers("Pad")
def _pad(network: Network, node: Node) -> None:
    """PAD with zeros."""
    pads = real_values(node.input(1)) if len(node.inputs) > 1 else np.asarray(node.attribute("pads"))
    fill = real_values(node.input(2))
    zero = (fill is None or not fill.any()) and not node.attribute("value", 0.0) and node.input(3) is None
    if pads is None or not zero or node.attribute("mode", "constant") != "constant" or (pads < 0).any():
        raise _unsupported(node, "zeros around all dimensions")
    source = network.tensor(node, 0)
    widths = pads.reshape(2, -1).T.astype(np.int32)
    if len(widths) == 4:
        widths = widths[list(CHANNELS_LAST)]
    network.at[node.result] = network.padded(source, widths)


@lowers("Resize", "Upsample")
def _resize(network: Network, node: Node) -> None:
    """RESIZE_NEAREST_NEIGHBOR."""
    source, shape = network.tensor(node, 0), network.shape(node.result)
    mode = node.attribute("coordinate_transformation_mode", "half_pixel")
    if node.attribute("mode", "nearest") != "nearest" or len(shape) != 4 or mode not in ("half_pixel", "asymmetric"):
        raise _unsupported(node, "nearest neighbours of an image")
    result = network.result(node, network.grid_of(source))
    network.made.operator(
        "RESIZE_NEAREST_NEIGHBOR",
        [source, network.integers(network.names[node], shape[1:3])],
        [result],
        "ResizeNearestNeighborOptions",
        half_pixel_centers=mode == "half_pixel",
    )


def _on_fixed_grid(
    network: Network, node: Node, name: str, grid: TfliteGrid, options: str = "", **settings: Any
) -> None:
    network.made.operator(name, [network.tensor(node, 0)], [network.result(node, grid)], options, **settings)


def _reshaped(network: Network, source: int, shape: tuple[int, ...], name: str) -> int:
    moved = network.made.activation(name, shape, network.grid_of(source))
    sizes = network.integers(name, shape)
    network.made.operator("RESHAPE", [source, sizes], [moved], "ReshapeOptions", new_shape=list(shape))
    return moved


def _mixes(shape: tuple[int, ...]) -> bool:
    """Return whether the orders [N, C, H, W] and [N, H, W, C] of an image differ."""
    return len(shape) == 4 and shape[3] > 1 and shape[1] * shape[2] > 1


def _bias(network: Network, node: Node, source: int, scale: tuple[float, ...], channels: int) -> int:
    """Return the bias in int32 on the grid of the products; zeros where there is none."""
    operands = op_of(node).quantizable(node)
    array = real_values(node.input(2)) if operands is not None and operands.bias is not None else None
    step = np.asarray(scale, np.float64) * network.grid_of(source).scale[0]
    values = np.zeros(channels) if array is None else np.broadcast_to(array.reshape(-1), (channels,)) / step
    limits = np.iinfo(np.int32)
    codes = np.clip(np.rint(values), limits.min, limits.max).astype(np.int32)
    return network.made.constant(f"{network.names[node]}.bias", codes, TfliteGrid(tuple(step.tolist())))


def _slid(
    network: Network, node: Node, window: Window, output: tuple[int, ...], fill: int | None = None
) -> tuple[int, int]:
    """Return the tensor that a window slides over and the padding mode.

    Padding that is neither SAME nor VALID is a PAD.
    """
    source = network.tensor(node, 0)
    begins, ends, same = [], [], True
    for axis, (size, count) in enumerate(zip(network.made.shapes[source][1:3], output, strict=True)):
        stride, reach = window.strides[axis], window.dilations[axis] * (window.kernel[axis] - 1) + 1
        around = max((count - 1) * stride + reach - size, 0)
        begins.append(window.begin[axis])
        ends.append(max((count - 1) * stride + reach - size - begins[-1], 0))
        same &= count == -(-size // stride) and begins[-1] == around // 2
    if not any((*begins, *ends)):
        return source, VALID
    if same:
        return source, SAME
    widths = np.array([(0, 0), *zip(begins, ends, strict=True), (0, 0)], np.int32)
    return network.padded(source, widths, fill), VALID


def _strides(window: Window, padding: int) -> dict[str, Any]:
    return {"padding": padding, "stride_h": window.strides[0], "stride_w": window.strides[1]}


def _unsupported(node: Node, expected: str) -> TargetError:
    return TargetError(f"node {node.label!r}: this {node.op} has no int8 TensorFlow Lite form; expected {expected}")
