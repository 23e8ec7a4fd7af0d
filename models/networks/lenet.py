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
        """Return images float32 [N, channels, 28, 28] → logits float32 [N, classes]."""
        hidden = self.pool(self.relu(self.bn1(self.conv1(images))))
        hidden = self.pool(self.relu(self.bn2(self.conv2(hidden))))
        hidden = self.relu(self.bn3(self.fc1(self.flatten(hidden))))
        logits: Tensor = self.fc2(hidden)
        return logits


class LeNet5(nn.Module):
    """The classic LeNet-5 (LeCun et al., 1998) with ReLU and max pooling: 6 and 16 channels, 120, 84, classes.

    SimpleNet-5 of ReLeQ is the same five layers on 32x32x3 images without padding.

    Args:
        classes: number of classes.
        channels: channels of the input image.
        padding: of the first convolution; 2 for images of 28x28, 0 for 32x32.
    """

    def __init__(self, classes: int = 10, channels: int = 1, padding: int = 2) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 6, 5, padding=padding)
        self.conv2 = nn.Conv2d(6, 16, 5)
        self.fc1 = nn.Linear(400, 120)
        self.fc2 = nn.Linear(120, 84)
        self.fc3 = nn.Linear(84, classes)
        self.relu = nn.ReLU()
        self.pool = nn.MaxPool2d(2)
        self.flatten = nn.Flatten()

    def forward(self, images: Tensor) -> Tensor:
        """Return images float32 [N, channels, 28, 28] (32 without padding) → logits float32 [N, classes]."""
        hidden = self.pool(self.relu(self.conv1(images)))
        hidden = self.flatten(self.pool(self.relu(self.conv2(hidden))))
        hidden = self.relu(self.fc2(self.relu(self.fc1(hidden))))
        logits: Tensor = self.fc3(hidden)
        return logits
