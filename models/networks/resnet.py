"""Residual networks (He et al., 2016): the 6n+2 family for small images, and ResNet-18 and ResNet-50 for ImageNet."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

if TYPE_CHECKING:
    from torch import Tensor


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut, which is a 1x1 convolution where the shape changes (option B)."""

    expansion = 1

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU()
        self.shortcut = _shortcut(inputs, width, stride)

    def forward(self, images: Tensor) -> Tensor:
        """Return float32 [N, inputs, H, W] → [N, width, H / stride, W / stride]."""
        hidden = self.relu(self.bn1(self.conv1(images)))
        result: Tensor = self.relu(self.bn2(self.conv2(hidden)) + self.shortcut(images))
        return result


class Bottleneck(nn.Module):
    """1x1, 3x3 (with the stride) and 1x1 convolutions; the last has four times the width."""

    expansion = 4

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, 4 * width, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * width)
        self.relu = nn.ReLU()
        self.shortcut = _shortcut(inputs, 4 * width, stride)

    def forward(self, images: Tensor) -> Tensor:
        """Return float32 [N, inputs, H, W] → [N, 4 * width, H / stride, W / stride]."""
        hidden = self.relu(self.bn1(self.conv1(images)))
        hidden = self.relu(self.bn2(self.conv2(hidden)))
        result: Tensor = self.relu(self.bn3(self.conv3(hidden)) + self.shortcut(images))
        return result


class ResNet(nn.Module):
    """A stem, stages of blocks that each but the first halve the image, the mean over it, a dense layer.

    Args:
        block: `BasicBlock` or `Bottleneck`.
        depths: blocks of each stage.
        widths: width of each stage.
        classes: number of classes.
        channels: channels of the input image.
        large_stem: 7x7 convolution of stride 2 and max pooling (ImageNet) instead of a 3x3 convolution.
    """

    def __init__(
        self,
        block: type[BasicBlock | Bottleneck],
        depths: tuple[int, ...],
        widths: tuple[int, ...],
        classes: int,
        channels: int,
        *,
        large_stem: bool,
    ) -> None:
        super().__init__()
        first = widths[0]
        kernel, stride, padding = (7, 2, 3) if large_stem else (3, 1, 1)
        self.conv1 = nn.Conv2d(channels, first, kernel, stride, padding, bias=False)
        self.bn1 = nn.BatchNorm2d(first)
        self.relu = nn.ReLU()
        self.pool = nn.MaxPool2d(3, 2, 1) if large_stem else nn.Identity()
        blocks: list[nn.Module] = []
        inputs = first
        for stage, (depth, width) in enumerate(zip(depths, widths, strict=True)):
            for number in range(depth):
                blocks.append(block(inputs, width, 2 if stage and not number else 1))
                inputs = width * block.expansion
        self.blocks = nn.Sequential(*blocks)
        self.mean = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.fc = nn.Linear(inputs, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Return images float32 [N, channels, H, W] → logits float32 [N, classes]."""
        hidden = self.blocks(self.pool(self.relu(self.bn1(self.conv1(images)))))
        logits: Tensor = self.fc(self.flatten(self.mean(hidden)))
        return logits


def small_resnet(blocks: int, classes: int = 10, channels: int = 3) -> ResNet:
    """Return the network of 6 * blocks + 2 layers of He et al., section 4.2 (blocks = 3: ResNet-20).

    Widths 16, 32, 64.
    """
    return ResNet(BasicBlock, (blocks,) * 3, (16, 32, 64), classes, channels, large_stem=False)


def resnet18(classes: int = 1000, channels: int = 3) -> ResNet:
    """ResNet-18 of He et al., table 1."""
    return ResNet(BasicBlock, (2, 2, 2, 2), (64, 128, 256, 512), classes, channels, large_stem=True)


def resnet50(classes: int = 1000, channels: int = 3) -> ResNet:
    """ResNet-50 of He et al., table 1, with the stride in the 3x3 convolutions."""
    return ResNet(Bottleneck, (3, 4, 6, 3), (64, 128, 256, 512), classes, channels, large_stem=True)


def _shortcut(inputs: int, outputs: int, stride: int) -> nn.Module:
    if stride == 1 and inputs == outputs:
        return nn.Identity()
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
