"""From a guide to C99: header, source and self-test of a network on integers alone."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib import resources

import numpy as np

from qir.errors import ExportError
from qir.guide import Guide
from qir.guide_network import ConstantGuide, MultiplierGuide, NetworkTensor, OutputGuide, StepGuide
from qir.passes.exporting.c99.products import rows
from qir.passes.exporting.c99.reading import GuideReader, comment, elements, identifier, label, numbers
from qir.passes.exporting.memory_plan import Buffer, plan_memory
from qir.tensor import Array

TILE = 8
"""Places of a convolution whose columns are kept while a row of weights is read."""

_ISLANDS = ("float", "control-flow", "unknown")


@dataclass(frozen=True)
class Port:
    """An input or output of the function.

    Attributes:
        name: of the parameter.
        tensor: whose codes it is.
        type: `uint8_t` or `int8_t`.
        count: number of codes.
    """

    name: str
    tensor: NetworkTensor
    type: str
    count: int


@dataclass(frozen=True)
class Sources:
    """C of a network.

    Attributes:
        name: prefix of its names.
        inputs, outputs: parameters of its function.
        header, source: texts of `<name>.h` and `<name>.c`.
        arena, scratch: bytes of static memory for activations, and for rows and columns.
    """

    name: str
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    header: str
    source: str
    arena: int
    scratch: int


def c_sources(guide: Guide, weights: bytes, name: str) -> Sources:
    """C99 of a network.

    Args:
        guide: of the network, its multipliers dyadic.
        weights: content of its weights file.
        name: of the network; made an identifier.

    Raises:
        ExportError: a step does not run on integers, or has no kernel; the message names it and why.
    """
    for step in guide.steps:
        if step.kind in _ISLANDS:
            why = f": {guide.network_unknown}" if guide.network_unknown else ""
            raise ExportError(f"profile 'c99': step {label(step)} does not run on integers{why}")
    return _Writer(GuideReader(guide, weights), identifier(name)).run()


@dataclass
class _Writer:
    reader: GuideReader
    name: str
    kernels: set[str] = field(default_factory=set)
    constants: list[str] = field(default_factory=list)
    body: list[str] = field(default_factory=list)
    scratch: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        guide = self.reader.guide
        self.guide = guide
        self.tensors = {tensor.name: tensor for tensor in guide.tensors}
        self.weights = {constant.name: constant for constant in guide.constants}

    def run(self) -> Sources:
        """The texts."""
        inputs = self._ports([name for port in self.guide.inputs for name in port.codes], "in")
        outputs = self._ports([port.tensor for port in self.guide.outputs], "out")
        self._place(inputs)
        for port in inputs:
            self._take(port)
        for index, step in enumerate(self.guide.steps):
            if step.kind not in ("quantize", "view"):
                self._step(index, step)
        for port in outputs:
            self._give(port)
        texts = {"header": self._header(inputs, outputs), "source": self._source(inputs, outputs)}
        return Sources(self.name, inputs, outputs, **texts, arena=self.arena, scratch=self._scratch_bytes())

    def _ports(self, names: Sequence[str], prefix: str) -> tuple[Port, ...]:
        found = []
        for index, name in enumerate(names):
            tensor = self.tensors[name]
            low, _ = self._limits(tensor)
            label = prefix if len(names) == 1 else f"{prefix}{index}"
            found.append(Port(label, tensor, "int8_t" if low < 0 else "uint8_t", elements(tensor)))
        return tuple(found)

    def _limits(self, tensor: NetworkTensor) -> tuple[int, int]:
        """Smallest and largest code that the bytes of a tensor stand for."""
        grid = tensor.grid
        if tensor.element != "codes" or grid is None:
            raise ExportError(
                f"profile 'c99': tensor {tensor.name!r} holds {tensor.element}: quantize it, with a quantizer on the "
                "outputs of the network too"
            )
        if grid.high_code - grid.low_code > 255 or grid.low_code < -128 or grid.high_code > 255:
            raise ExportError(
                f"profile 'c99': tensor {tensor.name!r} has codes {grid.low_code} to {grid.high_code}: the kernels "
                "take up to 8 bits"
            )
        return grid.low_code, grid.high_code

    def _zero(self, tensor: NetworkTensor) -> int:
        assert tensor.grid is not None  # noqa: S101 - checked with the limits
        zero = self.reader.integers(tensor.grid.zero_point)
        if zero.size != 1:
            raise ExportError(f"profile 'c99': tensor {tensor.name!r} has a zero point a channel")
        return int(zero[0])

    def _offset(self, tensor: NetworkTensor) -> int:
        """What is added to a byte to give the integer, code less zero point."""
        return self._limits(tensor)[0] - self._zero(tensor)

    def _place(self, inputs: Sequence[Port]) -> None:
        """Offsets of the tensors in an arena of one byte a code."""
        memory = self.guide.memory
        if memory is None:
            raise ExportError(f"profile 'c99': sizes are unknown: {self.guide.memory_unknown}")
        direct = {port.tensor.name: port.name for port in inputs if self._limits(port.tensor)[0] == 0}
        kept = [b for b in memory.tensors if b.name not in direct]
        buffers = [Buffer(b.name, b.quantizer, 8, b.elements, b.elements, b.first, b.last) for b in kept]
        plan = plan_memory(buffers)
        self.arena = plan.peak
        self.places = direct | {b.name: f"arena + {at}" for b, at in zip(buffers, plan.offsets, strict=True)}

    def _at(self, name: str) -> str:
        """Where a tensor lies."""
        tensor = self.tensors[name]
        self._limits(tensor)
        return self.places[tensor.view_of or name]

    def _take(self, port: Port) -> None:
        low, place = self._limits(port.tensor)[0], self._at(port.tensor.name)
        if place != port.name:
            self.body.append(
                f"  for (i = 0; i < {port.count}; i++)\n    ({place})[i] = (uint8_t)({port.name}[i] - ({low}));"
            )

    def _give(self, port: Port) -> None:
        low, place = self._limits(port.tensor)[0], self._at(port.tensor.name)
        self.body.append(
            f"  for (i = 0; i < {port.count}; i++)\n    {port.name}[i] = ({port.type})(({place})[i] + ({low}));"
        )

    def _step(self, index: int, step: StepGuide) -> None:
        self.body.append(f"  /* {comment(step.name)}: {comment(step.op)} */")
        for number, output in enumerate(step.outputs):
            self._output(f"s{index}" + (f"_{number}" if number else ""), step, output)

    def _output(self, key: str, step: StepGuide, output: OutputGuide) -> None:
        if step.gather is not None:
            self._gather(key, step, output)
        elif step.kind == "move" and step.window is not None:
            self._maximum(key, step, output)
        else:
            self._kernel(step)(key, step, output)

    def _kernel(self, step: StepGuide) -> Callable[[str, StepGuide, OutputGuide], None]:
        constant = len(step.inputs) > 1 and step.inputs[1] in self.weights
        kernels = {
            "Conv": self._product if constant else None,
            "ConvTranspose": self._product if constant else None,
            "Gemm": self._product if constant else self._matmul,
            "MatMul": self._product if constant else self._matmul,
            "Add": self._pair, "Mul": self._pair, "Concat": self._concat,
            "AveragePool": self._average, "GlobalAveragePool": self._average,
            "Relu": self._rescale, "Clip": self._rescale, "QuantizeLinear": self._rescale,
        }  # fmt: skip
        found = kernels.get(step.op)
        if found is None or any(name in self.weights for name in step.inputs[:1]):
            raise ExportError(f"profile 'c99': step {label(step)} has no kernel: export it with another profile")
        return found

    def _constant(self, type_: str, name: str, text: str) -> str:
        self.constants.append(f"static const {type_} {name}[] = {{\n  {text}}};")
        return name

    def _to(self, key: str, step: StepGuide, output: OutputGuide, entries: slice = slice(None)) -> str:
        """The struct that turns sums into codes of a result."""
        tensor, found = self.tensors[output.tensor], output.multiplier
        low, _ = self._limits(tensor)
        mantissas, shifts = self._multipliers(found)
        mantissas, shifts = mantissas[:, entries], shifts[entries]
        many = shifts.size > 1 and step.op not in ("Add", "Mul")
        if shifts.size > 1 and not many:
            raise ExportError(f"profile 'c99': step {label(step)} has a multiplier a channel")
        clamp = output.clamp or self._limits(tensor)
        self.kernels.add("output")
        mantissa = self._constant("int32_t", f"{key}_mantissa", numbers(mantissas.reshape(-1)))
        shift = self._constant("uint8_t", f"{key}_shift", numbers(shifts))
        values = f"{mantissa}, {shift}, {int(many)}, {self._zero(tensor)}, {clamp[0]}, {clamp[1]}, {low}"
        self.constants.append(f"static const qir_output {key}_to = {{{values}}};")
        return f"&{key}_to"

    def _multipliers(self, found: MultiplierGuide | None) -> tuple[Array, Array]:
        """int64 mantissas [operands, channels] and shifts [channels]; 1 and 0 where codes are passed on."""
        if found is None:
            return np.ones((1, 1), np.int64), np.zeros(1, np.int64)
        lines = np.stack([self.reader.integers(line) for line in found.mantissa])
        shifts = self.reader.integers(found.shift)
        if len(set(shifts.tolist())) == 1 and all(len(set(line.tolist())) == 1 for line in lines):
            return lines[:, :1], shifts[:1]
        return lines, shifts

    def _window(self, key: str, step: StepGuide, channels: int, size: Sequence[int], output: Sequence[int]) -> str:
        window = step.window
        if window is None or len(window.kernel) > 3:
            raise ExportError(f"profile 'c99': step {label(step)} has more than three spatial dimensions")
        self.kernels.add("window")

        def three(values: Sequence[int], rest: int) -> str:
            return "{" + ", ".join(map(str, [rest] * (3 - len(values)) + [*values])) + "}"

        parts = [
            str(channels), three(size, 1), three(output, 1), three(window.kernel, 1), three(window.strides, 1),
            three(window.dilations, 1), three(window.begin, 0), str(int(step.op == "ConvTranspose")),
        ]  # fmt: skip
        self.constants.append(f"static const qir_window {key}_window = {{{', '.join(parts)}}};")
        return f"&{key}_window"

    def _need(self, name: str, count: int) -> str:
        self.scratch[name] = max(self.scratch.get(name, 1), count)
        return name

    def _product(self, key: str, step: StepGuide, output: OutputGuide) -> None:
        data, result = self.tensors[step.inputs[0]], self.tensors[output.tensor]
        low, high = self._limits(data)
        bits, offset = max((high - low).bit_length(), 1), self._offset(data)
        weight = self._plain_weight(step)
        found = rows(self.reader, step, weight, bits)
        groups = int(step.attributes.get("group", 1)) if step.window else 1
        outputs, length = len(found.sums) // groups, self._length(step, weight, groups)
        bias = np.zeros(len(found.sums), np.int64)
        if step.bias is not None:
            bias = bias + self.reader.integers(step.bias)
        if found.form == "planes":
            bias = bias + offset * found.sums
        if np.abs(bias).max(initial=0) >= 2**31:
            raise ExportError(f"profile 'c99': step {label(step)}: its bias leaves 32 bits")
        shape = self._shape(key, step, data, result, groups)
        if step.window and any((*step.window.begin, *step.window.end)) and not 0 <= -offset <= 255:
            raise ExportError(f"profile 'c99': step {label(step)}: the zero point of its input has no code")
        fill = -offset if 0 <= -offset <= 255 else 0
        fields = f"{shape}, {offset}, {found.stride}, {found.bits}, {found.step}, {found.offset}, {fill}"
        fields = fields.replace("OUTPUTS", str(outputs)).replace("LENGTH", str(length))
        to = self._to(key, step, output)
        self.kernels.add("product")
        self.constants.append(f"static const qir_product {key}_product = {{{fields}}};")
        w = self._constant(found.type, f"{key}_weight", found.text)
        b = self._constant("int32_t", f"{key}_bias", numbers(bias))
        begin = f"{self._at(data.name)}, {w}, {b}, &{key}_product"
        column = self._need("column", length) if step.window else "0"
        out = self._at(result.name)
        if found.form == "planes":
            self.kernels.add("counted")
            planes = self._need("planes", -(-length // 64) * bits)
            self.body.append(f"  qir_counted({begin}, {bits}, {to}, {column}, {planes}, {out});")
            return
        places = int(np.prod(result.shape[2:])) if step.window else elements(result) // result.shape[-1]
        tile = min(TILE, places)
        columns = self._need("columns", tile * length)
        row = f", {self._need('row', length)}" if found.form == "words" else ""
        self.kernels.add(f"product_{found.form}")
        self.body.append(f"  qir_product_{found.form}({begin}, {tile}, {to}, {column}, {columns}{row}, {out});")

    def _plain_weight(self, step: StepGuide) -> ConstantGuide:
        found = self.weights[step.inputs[1]]
        matrix = [size for size in found.shape[:-2] if size != 1] == []
        if step.window is None and (len(found.shape) < 2 or not matrix or step.attributes.get("transA", 0)):
            raise ExportError(f"profile 'c99': step {label(step)}: its weight is not a matrix")
        return found

    def _length(self, step: StepGuide, weight: ConstantGuide, groups: int) -> int:
        if step.op == "Conv":
            return int(np.prod(weight.shape[1:]))
        if step.op == "ConvTranspose":
            return weight.shape[0] // groups * int(np.prod(weight.shape[2:]))
        return weight.shape[-1 if step.attributes.get("transB", 0) else -2]

    def _shape(self, key: str, step: StepGuide, data: NetworkTensor, result: NetworkTensor, groups: int) -> str:
        """Fields of the product's struct that tell where its operands lie."""
        if step.window is None:
            places, width = elements(result) // result.shape[-1], result.shape[-1]
            return f"0, 1, 1, OUTPUTS, {places}, LENGTH, 0, 0, {width}, 1"
        channels, size = data.shape[1] // groups, int(np.prod(data.shape[2:]))
        places = int(np.prod(result.shape[2:]))
        window = self._window(key, step, channels, data.shape[2:], result.shape[2:])
        image = data.shape[1] * size
        return (
            f"{window}, {data.shape[0]}, {groups}, OUTPUTS, {places}, LENGTH, {image}, {channels * size}, 1, {places}"
        )

    def _matmul(self, key: str, step: StepGuide, output: OutputGuide) -> None:
        first, second, result = (self.tensors[name] for name in (*step.inputs[:2], output.tensor))
        if len(first.shape) < 2 or len(second.shape) < 2 or step.attributes.get("transA", 0):
            raise ExportError(f"profile 'c99': step {label(step)}: its operands are not matrices")
        rows_, width = result.shape[-2:]
        length, batches = first.shape[-1], result.shape[:-2]
        to = self._to(key, step, output)
        self.kernels.add("matmul")
        offsets = f"{self._offset(first)}, {self._offset(second)}, {to}"
        sizes = f"{rows_}, {width}, {length}, {int(step.attributes.get('transB', 0))}, {offsets}"
        places = []
        for operand, size in ((first, rows_ * length), (second, length * width)):
            steps = _strides(operand.shape[:-2], batches)
            index = np.indices(batches).reshape(len(batches), -1) if batches else np.zeros((0, 1), np.int64)
            places.append((index * np.asarray(steps, np.int64).reshape(-1, 1)).sum(axis=0) * size)
        count = len(places[0])
        a, b = (
            self._constant("int32_t", f"{key}_{side}", numbers(line)) for side, line in zip("ab", places, strict=True)
        )
        self.body.append(
            f"  for (i = 0; i < {count}; i++)\n    qir_matmul({self._at(first.name)} + {a}[i], "
            f"{self._at(second.name)} + {b}[i], {sizes}, {self._at(result.name)} + i * {rows_ * width});"
        )

    def _pair(self, key: str, step: StepGuide, output: OutputGuide) -> None:
        result = self.tensors[output.tensor]
        places, offsets, steps = [], [], []
        for side, name in zip("ab", step.inputs, strict=True):
            place, offset, shape = self._operand(f"{key}_{side}", step, name)
            places.append(place)
            offsets.append(offset)
            steps.append(_strides(shape, result.shape))
        sizes, steps = _merged(list(result.shape), steps)
        if len(sizes) > 8:
            raise ExportError(f"profile 'c99': step {label(step)} has more than 8 dimensions")
        parts = ["{" + ", ".join(map(str, line)) + "}" for line in (sizes, *steps)]
        kernel = "add" if step.op == "Add" else "multiply"
        self.kernels.add(kernel)
        to = self._to(key, step, output)
        self.constants.append(
            f"static const qir_pair {key}_pair = {{{', '.join(parts)}, {len(sizes)}, {offsets[0]}, {offsets[1]}}};"
        )
        self.body.append(
            f"  qir_{kernel}({places[0]}, {places[1]}, &{key}_pair, {elements(result)}, {to}, {self._at(result.name)});"
        )

    def _operand(self, key: str, step: StepGuide, name: str) -> tuple[str, int, Sequence[int]]:
        """Place, offset and shape of a tensor or a constant."""
        if name in self.tensors:
            return self._at(name), self._offset(self.tensors[name]), self.tensors[name].shape
        values = self.reader.weight(self.weights[name])
        low = int(values.min())
        if int(values.max()) - low > 255:
            raise ExportError(f"profile 'c99': step {label(step)}: its constant has more than 8 bits")
        return self._constant("uint8_t", key, numbers((values - low).reshape(-1))), low, self.weights[name].shape

    def _concat(self, key: str, step: StepGuide, output: OutputGuide) -> None:
        result = self.tensors[output.tensor]
        axis = int(step.attributes["axis"]) % len(result.shape)
        outer, inner = int(np.prod(result.shape[:axis])), int(np.prod(result.shape[axis + 1 :]))
        many = output.multiplier is not None and self._multipliers(output.multiplier)[1].size > 1
        start = 0
        self.kernels.add("rescale")
        for index, name in enumerate(step.inputs):
            tensor = self.tensors[name]
            size, place = tensor.shape[axis] * inner, f"i * {result.shape[axis] * inner} + {start * inner}"
            to = self._to(f"{key}_{index}", step, output, slice(start, start + 1) if many else slice(None))
            self.body.append(
                f"  for (i = 0; i < {outer}; i++)\n    qir_rescale({self._at(name)} + i * {size}, {size}, "
                f"{self._offset(tensor)}, {to}, {self._at(result.name)} + {place});"
            )
            start += tensor.shape[axis]

    def _average(self, key: str, step: StepGuide, output: OutputGuide) -> None:
        data, result, found = self.tensors[step.inputs[0]], self.tensors[output.tensor], output.multiplier
        assert found is not None  # noqa: S101 - means are requantized
        counts, shift = self.reader.integers(found.count), int(self.reader.integers(found.shift).max())
        if (int(counts.max()) << shift) >= 2**62:
            raise ExportError(f"profile 'c99': step {label(step)}: its divisor leaves 62 bits")
        window = self._window(key, step, data.shape[0] * data.shape[1], data.shape[2:], result.shape[2:])
        counted = self._constant("int32_t", f"{key}_count", numbers(counts))
        to = self._to(key, step, output)
        self.kernels.add("average")
        self.body.append(
            f"  qir_average({self._at(data.name)}, {window}, {self._offset(data)}, {counted}, {int(counts.size > 1)}, "
            f"{to}, {self._at(result.name)});"
        )

    def _maximum(self, key: str, step: StepGuide, output: OutputGuide) -> None:
        data, result = self.tensors[step.inputs[0]], self.tensors[output.tensor]
        window = self._window(key, step, data.shape[0] * data.shape[1], data.shape[2:], result.shape[2:])
        self.kernels.add("maximum")
        self.body.append(f"  qir_maximum({self._at(data.name)}, {window}, {self._at(result.name)});")

    def _gather(self, key: str, step: StepGuide, output: OutputGuide) -> None:
        data, result, gather = self.tensors[step.inputs[0]], self.tensors[output.tensor], step.gather
        assert gather is not None  # noqa: S101 - asked for moves with one
        lines = [self.reader.integers(line) for line in gather.offsets]
        if len(lines) > 8:
            raise ExportError(f"profile 'c99': step {label(step)} has more than 8 dimensions")
        names = [self._constant("int32_t", f"{key}_axis{axis}", numbers(line)) for axis, line in enumerate(lines)]
        sizes = self._constant("int32_t", f"{key}_sizes", numbers([line.size for line in lines] or [1]))
        self.constants.append(f"static const int32_t *const {key}_axes[] = {{{', '.join(names) or '0'}}};")
        fill = (gather.fill or 0) - self._limits(data)[0] if gather.fill is not None else 0
        self.kernels.add("gather")
        self.body.append(
            f"  qir_gather({self._at(data.name)}, {len(lines)}, {sizes}, {key}_axes, {fill}, {self._at(result.name)});"
        )

    def _rescale(self, key: str, step: StepGuide, output: OutputGuide) -> None:
        data, result = self.tensors[step.inputs[0]], self.tensors[output.tensor]
        to = self._to(key, step, output)
        self.kernels.add("rescale")
        self.body.append(
            f"  qir_rescale({self._at(data.name)}, {elements(data)}, {self._offset(data)}, {to}, "
            f"{self._at(result.name)});"
        )

    def _scratch_bytes(self) -> int:
        return sum(_SCRATCH[name][1] * count for name, count in self.scratch.items())

    def _parameters(self, inputs: Sequence[Port], outputs: Sequence[Port]) -> str:
        taken = [f"const {port.type} {port.name}[{port.count}]" for port in inputs]
        return ", ".join([*taken, *(f"{port.type} {port.name}[{port.count}]" for port in outputs)])

    def _header(self, inputs: Sequence[Port], outputs: Sequence[Port]) -> str:
        lines = [f"/* {comment(self.name)}: value = (code - zero point) * scale"]
        for port in (*inputs, *outputs):
            grid, tensor = port.tensor.grid, port.tensor
            assert grid is not None  # noqa: S101 - checked with the limits
            scale = grid.scale[0] if isinstance(grid.scale, list) else 0.0
            lines.append(
                f"   {port.name}: {comment(str(list(tensor.shape)))}, codes {grid.low_code} to {grid.high_code}, zero "
                f"point {self._zero(tensor)}, scale {np.float32(scale)!s}"
            )
        guard = f"{self.name.upper()}_H"
        return (
            "\n".join(lines)
            + f" */\n#ifndef {guard}\n#define {guard}\n\n#include <stdint.h>\n\n"
            + f"int {self.name}_run({self._parameters(inputs, outputs)});\n\n#endif\n"
        )

    def _source(self, inputs: Sequence[Port], outputs: Sequence[Port]) -> str:
        memory = [f"static uint8_t arena[{max(self.arena, 1)}];"] if any("arena" in line for line in self.body) else []
        memory += [f"static {_SCRATCH[name][0]} {name}[{count}];" for name, count in sorted(self.scratch.items())]
        counter = "  int32_t i;\n" if any("(i = 0;" in line for line in self.body) else ""
        return "\n".join(
            [
                f"/* {comment(self.name)}: integers alone, no heap; not to be run twice at a time */",
                f'#include "{self.name}.h"\n',
                _kernels(self.kernels),
                *self.constants,
                "",
                *memory,
                "",
                f"int {self.name}_run({self._parameters(inputs, outputs)}) {{",
                counter + "\n".join(self.body),
                "  return 0;\n}\n",
            ]
        )


_SCRATCH = {
    "column": ("uint8_t", 1),
    "planes": ("uint64_t", 8),
    "columns": ("int16_t", 2),
    "row": ("int16_t", 2),
}


def _kernels(used: set[str]) -> str:
    """The kernels that a network needs, with those that they need, in the order of the file."""
    text = (resources.files("qir.passes.exporting.c99") / "kernels.c").read_text(encoding="utf-8")
    top, *parts = re.split(r"^/\*@ ([a-z0-9_ ]+) \*/\n", text, flags=re.MULTILINE)
    needs = {names.split()[0]: names.split()[1:] for names in parts[::2]}
    found, open_ = set[str](), list(used)
    while open_:
        name = open_.pop()
        if name not in found:
            found.add(name)
            open_ += needs[name]
    bodies = [body for names, body in zip(parts[::2], parts[1::2], strict=True) if names.split()[0] in found]
    return top + "".join(bodies)


def _strides(shape: Sequence[int], result: Sequence[int]) -> list[int]:
    """How far a step along an axis of the result moves in an operand; 0 where it is broadcast."""
    padded = [1] * (len(result) - len(shape)) + list(shape)
    steps, step = [], 1
    for size in reversed(padded):
        steps.append(0 if size == 1 else step)
        step *= size
    return steps[::-1]


def _merged(sizes: list[int], steps: list[list[int]]) -> tuple[list[int], list[list[int]]]:
    """Axes that every operand walks through alike, joined to one."""
    axes = [(size, *line) for size, *line in zip(sizes, *steps, strict=True) if size != 1] or [(1, 0, 0)]
    joined = [axes[-1]]
    for size, *line in reversed(axes[:-1]):
        inner = joined[0]
        if all(outer == step * inner[0] for outer, step in zip(line, inner[1:], strict=True)):
            joined[0] = (size * inner[0], *inner[1:])
        else:
            joined.insert(0, (size, *line))
    return [axis[0] for axis in joined], [[axis[1 + side] for axis in joined] for side in range(len(steps))]
