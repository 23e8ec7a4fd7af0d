"""MobileNetV1 (Howard et al., 2017) and MobileNetV2 (Sandler et al., 2018)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

if TYPE_CHECKING:
    from torch import Tensor

V1_STAGES = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *((512, 1),) * 5, (1024, 2), (1024, 1))
"""Channels and stride of each depthwise-separable block of MobileNetV1, table 1."""

V2_STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
"""Expansion, channels, repetitions and first stride of each stage of MobileNetV2, table 2."""


class InvertedResidual(nn.Module):
    """Expands with a 1x1, filters with a depthwise 3x3, projects with a linear 1x1 convolution; adds where it can."""

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        expand = _unit(inputs, hidden, 1) if expansion > 1 else nn.Identity()
        project = (nn.Conv2d(hidden, outputs, 1, bias=False), nn.BatchNorm2d(outputs))
        self.layers = nn.Sequential(expand, _unit(hidden, hidden, 3, stride, groups=hidden), *project)
        self.adds = stride == 1 and inputs == outputs

    def forward(self, images: Tensor) -> Tensor:
        """Return float32 [N, inputs, H, W] → [N, outputs, H / stride, W / stride]."""
        result: Tensor = self.layers(images)
        return images + result if self.adds else result


def mobilenet_v1(classes: int = 1000, channels: int = 3, width: float = 1.0) -> nn.Sequential:
    """MobileNetV1: a convolution, 13 depthwise-separable blocks, the mean, a dense layer; ReLU6 throughout.

    Args:
        classes: number of classes.
        channels: channels of the input image.
        width: factor of all widths, rounded to multiples of 8.
    """
    inputs = _rounded(32 * width)
    layers: list[nn.Module] = [_unit(channels, inputs, 3, 2)]
    for outputs, stride in V1_STAGES:
        outputs_here = _rounded(outputs * width)
        layers += [_unit(inputs, inputs, 3, stride, groups=inputs), _unit(inputs, outputs_here, 1)]
        inputs = outputs_here
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, classes))


def mobilenet_v2(classes: int = 1000, channels: int = 3, width: float = 1.0) -> nn.Sequential:
    """MobileNetV2: a convolution, 17 inverted residuals, a 1x1 convolution, the mean, a dense layer; ReLU6.

    Args:
        classes: number of classes.
        channels: channels of the input image.
        width: factor of all widths, rounded to multiples of 8; the last convolution has at least 1280 channels.
    """
    inputs = _rounded(32 * width)
    layers: list[nn.Module] = [_unit(channels, inputs, 3, 2)]
    for expansion, outputs, count, stride in V2_STAGES:
        for number in range(count):
            layers.append(InvertedResidual(inputs, _rounded(outputs * width), 1 if number else stride, expansion))
            inputs = _rounded(outputs * width)
    last = _rounded(1280 * max(1.0, width))
    layers += [_unit(inputs, last, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.2), nn.Linear(last, classes)]
    return nn.Sequential(*layers)


def _unit(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """Convolution with padding that keeps the size at stride 1, BatchNorm, ReLU6."""
    convolution = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU6())


def _rounded(channels: float) -> int:
    """Return the nearest multiple of 8, at least 8, and not below 90 % of what was asked (both papers' public code)."""
    nearest = max(8, int(channels + 4) // 8 * 8)
    return nearest if nearest >= 0.9 * channels else nearest + 8
