"""Small language models of bytes, trained here in minutes on the sources of Python's standard library.

A decoder (embedding, blocks of masked attention and a feed-forward network, a head of its own) and a recurrent network.
Modules whose names begin with a to s train them, pieces of the others measure them.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import nn

from qir.tensor import Array

WORDS = 256
CONTEXT = 64


class Block(nn.Module):
    """Masked attention and a feed-forward network, each after a layer normalization and added."""

    def __init__(self, width: int, heads: int, inner: int) -> None:
        super().__init__()
        self.heads = heads
        self.before_attention, self.before_inner = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query, self.key, self.value, self.mixed = (nn.Linear(width, width) for _ in range(4))
        self.up, self.down = nn.Linear(width, inner), nn.Linear(inner, width)

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """States [batch, length, width] → the same shape; `mask` [length, length] is added to the scores."""
        found = self.before_attention(x)

        def parted(linear: nn.Module) -> torch.Tensor:
            return linear(found).unflatten(2, (self.heads, -1)).transpose(1, 2)

        query, key, value = parted(self.query), parted(self.key), parted(self.value)
        scores = query @ key.transpose(2, 3) / query.shape[3] ** 0.5 + mask
        x = x + self.mixed((scores.softmax(3) @ value).transpose(1, 2).flatten(2))
        return x + self.down(torch.relu(self.up(self.before_inner(x))))


class Decoder(nn.Module):
    """Scores of the next byte: int64 [batch, length] → float32 [batch, length, 256]."""

    def __init__(self, width: int = 128, blocks: int = 3, heads: int = 4, inner: int = 512) -> None:
        super().__init__()
        self.embedding, self.places = nn.Embedding(WORDS, width), nn.Parameter(torch.randn(CONTEXT, width) * 0.02)
        self.blocks = nn.ModuleList(Block(width, heads, inner) for _ in range(blocks))
        self.last, self.head = nn.LayerNorm(width), nn.Linear(width, WORDS, bias=False)
        self.register_buffer("mask", torch.full((CONTEXT, CONTEXT), -1e9).triu(1))

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Scores of the next byte at every place."""
        length = ids.shape[1]
        x, mask = self.embedding(ids) + self.places[:length], self.mask[:length, :length]
        for block in self.blocks:
            x = block(x, mask)
        return self.head(self.last(x))


def text(held: bool) -> Array:
    """Bytes of the standard library's modules, uint8: of those that train, or of those held out."""
    folder = Path(os.__file__).parent
    files = sorted(file for file in folder.glob("*.py") if (file.name[0] >= "t") is held)
    return np.frombuffer(b"".join(file.read_bytes() for file in files), np.uint8)


def windows(data: Array, count: int, seed: int) -> Array:
    """Pieces of the text, int64 [count, `CONTEXT` + 1]."""
    starts = np.random.default_rng(seed).integers(0, len(data) - CONTEXT - 1, count)
    return np.stack([data[start : start + CONTEXT + 1] for start in starts]).astype(np.int64)


class Recurrent(nn.Module):
    """Embedding, LSTM and head: scores of the next byte, as `Decoder`."""

    def __init__(self, width: int = 128, states: int = 256) -> None:
        super().__init__()
        self.embedding, self.lstm = nn.Embedding(WORDS, width), nn.LSTM(width, states, batch_first=True)
        self.inner, self.head = nn.Linear(states, 2 * states), nn.Linear(2 * states, WORDS, bias=False)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Scores of the next byte at every place."""
        return self.head(torch.relu(self.inner(self.lstm(self.embedding(ids))[0])))


def train(maker: Callable[[], nn.Module], steps: int, *, seed: int = 0, batch: int = 16) -> nn.Module:
    """A network after so many steps of Adam, with a learning rate that rises and falls (one cycle)."""
    torch.manual_seed(seed)
    model, data = maker(), text(held=False)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps, pct_start=0.1)
    for step in range(steps):
        ids = torch.from_numpy(windows(data, batch, seed * steps + step))
        loss = nn.functional.cross_entropy(model(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return model.eval()


def write(model: nn.Module, file: Path) -> None:
    """The network as ONNX, with open batch and length."""
    sizes = {"ids": {0: "batch", 1: "length"}, "scores": {0: "batch", 1: "length"}}
    ids = torch.zeros(1, CONTEXT, dtype=torch.int64)
    torch.onnx.export(
        model, (ids,), file, input_names=["ids"], output_names=["scores"], dynamic_axes=sizes, dynamo=False
    )
