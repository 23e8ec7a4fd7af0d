"""Small networks of other kinds than the shipped ones, trained in seconds on a slice of Fashion-MNIST."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F  # noqa: N812 - the name that PyTorch's own documentation uses
from torch import Tensor, nn

from qir import models
from qir.models.exporting import export_network

IMAGES, EPOCHS, BATCH = 3000, 3, 50
SIDE = 28


class Mobile(nn.Sequential):
    """Depthwise-separable blocks with ReLU6."""

    def __init__(self) -> None:
        """Three blocks of 16 to 64 channels."""
        layers: list[nn.Module] = [*_unit(1, 16, 3, 2)]
        for inputs, outputs, stride in ((16, 32, 2), (32, 64, 2), (64, 64, 1)):
            layers += [*_unit(inputs, inputs, 3, stride, inputs), *_unit(inputs, outputs, 1)]
        super().__init__(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))


class Recurrent(nn.Module):
    """An LSTM over the rows of an image, then two dense layers."""

    def __init__(self, units: int = 48) -> None:
        """Make an LSTM of so many units."""
        super().__init__()
        self.enter, self.lstm = nn.Linear(SIDE, 32), nn.LSTM(32, units, batch_first=True)
        self.hidden, self.leave = nn.Linear(units, 32), nn.Linear(32, 10)

    def forward(self, images: Tensor) -> Tensor:
        """Float32 [N, 1, 28, 28] → [N, 10]."""
        states, _ = self.lstm(F.relu(self.enter(images.flatten(1, 2))))
        scores: Tensor = self.leave(F.relu(self.hidden(states[:, -1])))
        return scores


class Attending(nn.Module):
    """A transformer encoder over the rows of an image: two layers, pre-norm, two heads."""

    def __init__(self, width: int = 32, heads: int = 2, layers: int = 2) -> None:
        """Make so many layers."""
        super().__init__()
        self.enter, self.places = nn.Linear(SIDE, width), nn.Parameter(torch.randn(1, SIDE, width) / 10)
        self.layers = nn.ModuleList(_Layer(width, heads) for _ in range(layers))
        self.norm, self.leave = nn.LayerNorm(width), nn.Linear(width, 10)

    def forward(self, images: Tensor) -> Tensor:
        """Float32 [N, 1, 28, 28] → [N, 10]."""
        rows = self.enter(images.flatten(1, 2)) + self.places
        for layer in self.layers:
            rows = layer(rows)
        scores: Tensor = self.leave(self.norm(rows).mean(1))
        return scores


class _Layer(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))
        self.widen, self.narrow = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, rows: Tensor) -> Tensor:
        x = self.first(rows)
        query, key, value = (
            layer(x).unflatten(2, (self.heads, -1)).transpose(1, 2) for layer in (self.query, self.key, self.value)
        )
        shares = (query @ key.transpose(2, 3) / query.shape[-1] ** 0.5).softmax(-1)
        rows = rows + self.out((shares @ value).transpose(1, 2).flatten(2))
        made: Tensor = rows + self.narrow(F.relu(self.widen(self.second(rows))))
        return made


class Mixing(nn.Module):
    """An MLP-Mixer over the rows of an image: two layers that mix rows, then channels."""

    def __init__(self, width: int = 32, layers: int = 2) -> None:
        """Make so many layers."""
        super().__init__()
        self.enter = nn.Linear(SIDE, width)
        self.rows = nn.ModuleList(_mlp(SIDE) for _ in range(layers))
        self.channels = nn.ModuleList(_mlp(width) for _ in range(layers))
        self.leave = nn.Linear(width, 10)

    def forward(self, images: Tensor) -> Tensor:
        """Float32 [N, 1, 28, 28] → [N, 10]."""
        x = self.enter(images.flatten(1, 2))
        for rows, channels in zip(self.rows, self.channels, strict=True):
            x = x + rows(x.transpose(1, 2)).transpose(1, 2)
            x = x + channels(x)
        scores: Tensor = self.leave(x.mean(1))
        return scores


def _mlp(width: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, 2 * width), nn.ReLU(), nn.Linear(2 * width, width))


KINDS = {"mobile": Mobile, "lstm": Recurrent, "transformer": Attending, "mixer": Mixing}
"""Networks by name."""


def small_network(name: str, folder: Path) -> Path:
    """The ONNX file of a small network, trained unless it lies in the folder."""
    path = folder / f"{name}.onnx"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        torch.manual_seed(0)
        network = KINDS[name]()
        accuracy = _train(network)
        print(f"{name}: trained on {IMAGES} images, {100 * accuracy:.1f} % of search-validation", flush=True)
        export_network(network, torch.zeros(1, 1, SIDE, SIDE), path)
    return path


def _train(network: nn.Module) -> float:
    """Train; the accuracy on 500 images of search-validation."""
    data, held = models.fashion_mnist("retraining").take(IMAGES), models.fashion_mnist("search-validation").take(500)
    images, labels = torch.from_numpy(data.images), torch.from_numpy(data.labels)
    steps = EPOCHS * (len(images) // BATCH)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-2, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, total_steps=steps)
    for epoch in range(EPOCHS):
        order = torch.randperm(len(images), generator=torch.Generator().manual_seed(epoch))
        for part in order[: len(images) // BATCH * BATCH].split(BATCH):
            optimizer.zero_grad()
            F.cross_entropy(network(images[part]), labels[part]).backward()
            optimizer.step()
            schedule.step()
    network.eval()
    with torch.no_grad():
        return float((network(torch.from_numpy(held.images)).argmax(1).numpy() == held.labels).mean())


def _unit(inputs: int, outputs: int, size: int, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    convolution = nn.Conv2d(inputs, outputs, size, stride, size // 2, groups=groups, bias=False)
    return [convolution, nn.BatchNorm2d(outputs), nn.ReLU6()]
