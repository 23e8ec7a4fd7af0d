"""The shape of one layer of multiply-accumulates, as cost models see it."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from qir.errors import TargetError


@dataclass(frozen=True, slots=True)
class ConvShape:
    """A convolution or a fully connected layer.

    Attributes:
        in_channels: channels of the input, of all groups together.
        out_channels: channels of the output, of all groups together.
        height: rows of the input, before padding.
        width: columns of the input, before padding.
        kernel: rows and columns of the kernel.
        stride: step between windows, rows and columns.
        padding: (rows, columns) on both sides, or (top, left, bottom, right).
        groups: groups of channels; equal to `in_channels` for a depthwise convolution.
        batch: images.
        fully_connected: a matrix product; `height`, `width` and `kernel` are then 1.
        dilation: step inside a window, rows and columns.
    """

    in_channels: int
    out_channels: int
    height: int
    width: int
    kernel: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] | tuple[int, int, int, int] = (0, 0)
    groups: int = 1
    batch: int = 1
    fully_connected: bool = False
    dilation: tuple[int, int] = (1, 1)

    def __post_init__(self) -> None:
        counts = {
            name: getattr(self, name) for name in ("in_channels", "out_channels", "height", "width", "groups", "batch")
        }
        for name, length in (("kernel", (2,)), ("stride", (2,)), ("padding", (2, 4)), ("dilation", (2,))):
            sizes = getattr(self, name)
            if not isinstance(sizes, tuple) or len(sizes) not in length:
                raise TargetError(
                    f"layer shape: {name} is {sizes!r}; expected a tuple of {' or '.join(map(str, length))} ints"
                )
            counts |= {f"{name}[{index}]": size for index, size in enumerate(sizes)}
        for name, count in counts.items():
            least = 0 if name.startswith("padding") else 1
            if isinstance(count, bool) or not isinstance(count, int) or count < least:
                raise TargetError(f"layer shape: {name} is {count!r}; expected an int of at least {least}")
        if self.in_channels % self.groups or self.out_channels % self.groups:
            raise TargetError(
                f"layer shape: {self.in_channels} input and {self.out_channels} output channels "
                f"do not divide into {self.groups} groups"
            )
        if self.fully_connected and (self.height, self.width, self.kernel) != (1, 1, (1, 1)):
            raise TargetError("layer shape: a fully connected layer has height, width and kernel 1")
        if min(self.output_size) < 1:
            raise TargetError(
                f"layer shape: kernel {self.kernel} (dilation {self.dilation}) does not fit into "
                f"{self.height}x{self.width} padded by {self.padding}"
            )

    @property
    def output_size(self) -> tuple[int, int]:
        """Rows and columns of the output (ONNX Conv, floor)."""
        pads = self.padding if len(self.padding) == 4 else (*self.padding, *self.padding)
        rows, columns = (
            (size + pads[axis] + pads[axis + 2] - self.dilation[axis] * (self.kernel[axis] - 1) - 1)
            // self.stride[axis]
            + 1
            for axis, size in enumerate((self.height, self.width))
        )
        return rows, columns

    @property
    def pixels(self) -> int:
        """Output positions of the whole batch: rows of the matrix product."""
        return self.batch * prod(self.output_size)

    @property
    def taps(self) -> int:
        """Products summed into one output: columns of the matrix product, of one group."""
        return self.in_channels // self.groups * prod(self.kernel)

    @property
    def filters(self) -> int:
        """Output channels of one group."""
        return self.out_channels // self.groups

    @property
    def depthwise(self) -> bool:
        """Whether each output channel reads one input channel only."""
        return self.groups > 1 and self.groups == self.in_channels

    @property
    def macs(self) -> int:
        """Multiply-accumulates of the whole batch."""
        return self.pixels * self.out_channels * self.taps

    @property
    def weights(self) -> int:
        """Elements of the weight."""
        return self.out_channels * self.taps

    @property
    def inputs(self) -> int:
        """Elements of the input, of the whole batch."""
        return self.batch * self.in_channels * self.height * self.width

    @property
    def outputs(self) -> int:
        """Elements of the output, of the whole batch."""
        return self.pixels * self.out_channels
