"""Steps that sum products: convolutions, and matrix products of a constant or of two activations."""

from __future__ import annotations

import numpy as np

from qir.errors import ExportError
from qir.guide_network import ConstantGuide, NetworkTensor, OutputGuide, StepGuide
from qir.passes.exporting.c99.products import rows
from qir.passes.exporting.c99.program import Program, Thresholds
from qir.passes.exporting.c99.reading import elements, label, numbers
from qir.passes.exporting.c99.strides import strides

PLACES, ELEMENTS = 8, 4096
"""Places of a convolution whose columns are kept while a row of weights is read: so many, or what the elements hold."""

MOST_THRESHOLD_BYTES = 8192
"""Thresholds of a layer that are written in place of multipliers: at most so many bytes."""


def product(program: Program, key: str, step: StepGuide, output: OutputGuide) -> None:
    """Write a convolution or a matrix product with a constant weight."""
    data, result = program.tensors[step.inputs[0]], program.tensors[output.tensor]
    low, high = program.limits(data)
    bits, offset = max((high - low).bit_length(), 1), program.offset(data)
    weight = _plain_weight(program, step)
    found = rows(program.reader, step, weight, bits)
    groups = int(step.attributes.get("group", 1)) if step.window else 1
    outputs, length = len(found.sums) // groups, _length(step, weight, groups)
    bias = np.zeros(len(found.sums), np.int64)
    if step.bias is not None:
        bias = bias + program.reader.integers(step.bias)
    if found.form == "planes":
        bias = bias + offset * found.sums
    if np.abs(bias).max(initial=0) >= 2**31:
        raise ExportError(f"profile 'c99': step {label(step)}: its bias leaves 32 bits")
    shape = _shape(program, key, step, data, result, groups)
    if step.window and any((*step.window.begin, *step.window.end)) and not 0 <= -offset <= 255:
        raise ExportError(f"profile 'c99': step {label(step)}: the zero point of its input has no code")
    fill = -offset if 0 <= -offset <= 255 else 0
    fields = f"{shape}, {offset}, {found.stride}, {found.bits}, {found.step}, {found.offset}, {fill}"
    fields = fields.replace("OUTPUTS", str(outputs)).replace("LENGTH", str(length))
    to = program.to(key, step, output, limits=_thresholds(program, key, step))
    program.kernels.add("product")
    program.constants.append(f"static const qir_product {key}_product = {{{fields}}};")
    w = program.constant(found.type, f"{key}_weight", found.text)
    b = program.constant("int32_t", f"{key}_bias", numbers(bias))
    begin = f"{program.at(data.name)}, {w}, {b}, &{key}_product"
    column = f"{program.need('offsets', length)}, {program.need('column', length)}" if step.window else "0, 0"
    out = program.at(result.name)
    if found.form == "planes":
        program.kernels.add("counted")
        planes = program.need("planes", -(-length // 64) * bits)
        program.body.append(f"  qir_counted({begin}, {bits}, {to}, {column}, {planes}, {out});")
        return
    places = int(np.prod(result.shape[2:])) if step.window else elements(result) // result.shape[-1]
    tile = min(max(PLACES, ELEMENTS // length), places)
    columns = program.need("columns", tile * length)
    row = f", {program.need('row', length)}" if found.form == "words" else ""
    program.kernels.add(f"product_{found.form}")
    program.body.append(f"  qir_product_{found.form}({begin}, {tile}, {to}, {column}, {columns}{row}, {out});")


def _thresholds(program: Program, key: str, step: StepGuide) -> Thresholds | None:
    """Define the thresholds of a layer with a result of up to 4 bits; None where there are none, or too many."""
    layer = next((layer for layer in program.reader.guide.layers if layer.name == step.layer), None)
    if layer is None or layer.thresholds is None or len(step.outputs) > 1:
        return None
    rows = program.reader.stored(layer.thresholds.packed) + layer.thresholds.low_sum
    if 4 * rows.size > MOST_THRESHOLD_BYTES or np.abs(rows).max() >= 2**31:
        return None
    array = program.constant("int32_t", f"{key}_thresholds", numbers(rows.reshape(-1)))
    return Thresholds(array, rows.shape[1], len(rows) > 1, layer.thresholds.low_code)


def _plain_weight(program: Program, step: StepGuide) -> ConstantGuide:
    found = program.weights[step.inputs[1]]
    matrix = [size for size in found.shape[:-2] if size != 1] == []
    if step.window is None and (len(found.shape) < 2 or not matrix or step.attributes.get("transA", 0)):
        raise ExportError(f"profile 'c99': step {label(step)}: its weight is not a matrix")
    return found


def _length(step: StepGuide, weight: ConstantGuide, groups: int) -> int:
    if step.op == "Conv":
        return int(np.prod(weight.shape[1:]))
    if step.op == "ConvTranspose":
        return weight.shape[0] // groups * int(np.prod(weight.shape[2:]))
    return weight.shape[-1 if step.attributes.get("transB", 0) else -2]


def _shape(program: Program, key: str, step: StepGuide, data: NetworkTensor, result: NetworkTensor, groups: int) -> str:
    """Return fields of the product's struct that tell where its operands lie."""
    if step.window is None:
        places, width = elements(result) // result.shape[-1], result.shape[-1]
        return f"0, 1, 1, OUTPUTS, {places}, LENGTH, 0, 0, {width}, 1"
    channels, size = data.shape[1] // groups, int(np.prod(data.shape[2:]))
    places = int(np.prod(result.shape[2:]))
    window = program.window(key, step, channels, data.shape[2:], result.shape[2:])
    image = data.shape[1] * size
    return f"{window}, {data.shape[0]}, {groups}, OUTPUTS, {places}, LENGTH, {image}, {channels * size}, 1, {places}"


def matmul(program: Program, key: str, step: StepGuide, output: OutputGuide) -> None:
    """Write a matrix product of two activations."""
    first, second, result = (program.tensors[name] for name in (*step.inputs[:2], output.tensor))
    if len(first.shape) < 2 or len(second.shape) < 2 or step.attributes.get("transA", 0):
        raise ExportError(f"profile 'c99': step {label(step)}: its operands are not matrices")
    rows_, width = result.shape[-2:]
    length, batches = first.shape[-1], result.shape[:-2]
    to = program.to(key, step, output)
    program.kernels.add("matmul")
    offsets = f"{program.offset(first)}, {program.offset(second)}, {to}"
    sizes = f"{rows_}, {width}, {length}, {int(step.attributes.get('transB', 0))}, {offsets}"
    places = []
    for operand, size in ((first, rows_ * length), (second, length * width)):
        steps = strides(operand.shape[:-2], batches)
        index = np.indices(batches).reshape(len(batches), -1) if batches else np.zeros((0, 1), np.int64)
        places.append((index * np.asarray(steps, np.int64).reshape(-1, 1)).sum(axis=0) * size)
    count = len(places[0])
    a, b = (
        program.constant("int32_t", f"{key}_{side}", numbers(line)) for side, line in zip("ab", places, strict=True)
    )
    program.body.append(
        f"  for (i = 0; i < {count}; i++)\n    qir_matmul({program.at(first.name)} + {a}[i], "
        f"{program.at(second.name)} + {b}[i], {sizes}, {program.at(result.name)} + i * {rows_ * width});"
    )
