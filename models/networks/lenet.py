"""LeNet in the shapes the papers use: Caffe's 20-50-500-10 with and without BatchNorm, and the classic LeNet-5."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

if TYPE_CHECKING:
    from torch import Tensor


class LeNet(nn.Module):
    """Caffe's LeNet: two 5x5 convolutions (20, 50 channels) and two dense layers (500, classes).

    Args:
        classes: number of classes.
        channels: channels of the input image of 28x28.
        batch_norm: BatchNorm after both convolutions and the first dense layer.
    """

    def __init__(self, classes: int = 10, channels: int = 1, *, batch_norm: bool = True) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 20, 5)
        self.bn1 = nn.BatchNorm2d(20) if batch_norm else nn.Identity()
        self.conv2 = nn.Conv2d(20, 50, 5)
        self.bn2 = nn.BatchNorm2d(50) if batch_norm else nn.Identity()
        self.fc1 = nn.Linear(800, 500)
        self.bn3 = nn.BatchNorm1d(500) if batch_norm else nn.Identity()
        self.fc2 = nn.Linear(500, classes)
        self.relu = nn.ReLU()
        self.pool = nn.MaxPool2d(2)
        self.flatten = nn.Flatten()

    def forward(self, images: Tensor) -> Tensor:
        """Images float32 [N, channels, 28, 28] → logits float32 [N, classes]."""
        hidden = self.pool(self.relu(self.bn1(self.conv1(images))))
        hidden = self.pool(self.relu(self.bn2(self.conv2(hidden))))
        hidden = self.relu(self.bn3(self.fc1(self.flatten(hidden))))
        logits: Tensor = self.fc2(hidden)
        return logits
