"""The shape of a layer of multiply-accumulates, as cost models see it."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod


@dataclass(frozen=True, slots=True)
class LayerShape:
    """A convolution of any rank, or a matrix product (a convolution without spatial dimensions).

    Attributes:
        in_channels, out_channels: channels of all groups together; inner dimension and columns of a matrix product.
        batch: images; rows of a matrix product.
        spatial: spatial sizes of the input, before padding; () for a matrix product.
        output_spatial: spatial sizes of the output.
        kernel, stride, dilation: one number per spatial dimension.
        pads: begins, then ends, as ONNX has them.
        groups: groups of channels.
        transposed: a transposed convolution: the kernel slides over the input, not over the output.
        copies: how many such products the node computes with weights of their own (batched MatMul, LSTM directions).
    """

    in_channels: int
    out_channels: int
    batch: int = 1
    spatial: tuple[int, ...] = ()
    output_spatial: tuple[int, ...] = ()
    kernel: tuple[int, ...] = ()
    stride: tuple[int, ...] = ()
    dilation: tuple[int, ...] = ()
    pads: tuple[int, ...] = ()
    groups: int = 1
    transposed: bool = False
    copies: int = 1

    @property
    def is_matrix_product(self) -> bool:
        """Whether there are no spatial dimensions."""
        return not self.spatial

    @property
    def weights(self) -> int:
        """Elements of the weight."""
        return self.copies * self.in_channels * self.out_channels // self.groups * prod(self.kernel)

    @property
    def macs(self) -> int:
        """Multiply-accumulates, those that meet padding included."""
        places = prod(self.spatial if self.transposed else self.output_spatial)
        return self.batch * places * self.weights
