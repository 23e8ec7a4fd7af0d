"""Transformers of every kind, made small: weights alone, mixed 2, 4 and 8 bits, as ONNX Runtime's own kernels."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

import qir
from qir.backends.execution.session import OrtSession
from qir.fake_quant import quantizers
from qir.passes import export, run_passes
from qir.passes.simplify.canonicalize import SIMPLIFY

torch = pytest.importorskip("torch")
nn = torch.nn

WIDTH, HEADS = 32, 2


def _encoder(layers=1):
    layer = nn.TransformerEncoderLayer(WIDTH, HEADS, 64, batch_first=True, activation="gelu")
    return nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)


class Bert(nn.Module):
    """Words and places, an encoder, the first place through a dense layer with tanh."""

    def __init__(self):
        super().__init__()
        self.words, self.places = nn.Embedding(50, WIDTH), nn.Embedding(16, WIDTH)
        self.encoder, self.pooler = _encoder(), nn.Linear(WIDTH, WIDTH)

    def forward(self, ids):
        x = self.words(ids) + self.places(torch.arange(ids.shape[1]))
        return torch.tanh(self.pooler(self.encoder(x)[:, 0]))


class Vit(nn.Module):
    """Patches by a convolution, an encoder, classes from the mean."""

    def __init__(self):
        super().__init__()
        self.patches, self.encoder, self.head = nn.Conv2d(3, WIDTH, 4, 4), _encoder(), nn.Linear(WIDTH, 10)

    def forward(self, images):
        return self.head(self.encoder(self.patches(images).flatten(2).transpose(1, 2)).mean(1))


class Whisper(nn.Module):
    """Convolutions over sound and an encoder; a decoder of words that attends to both; scores of words."""

    def __init__(self):
        super().__init__()
        self.sound, self.encoder = nn.Conv1d(8, WIDTH, 3, 2, 1), _encoder()
        self.words = nn.Embedding(50, WIDTH)
        layer = nn.TransformerDecoderLayer(WIDTH, HEADS, 64, batch_first=True)
        self.decoder, self.head = nn.TransformerDecoder(layer, 1), nn.Linear(WIDTH, 50, bias=False)

    def forward(self, sound, ids):
        memory = self.encoder(torch.nn.functional.gelu(self.sound(sound)).transpose(1, 2))
        mask = torch.full((6, 6), float("-inf")).triu(1)
        return self.head(self.decoder(self.words(ids), memory, tgt_mask=mask))


class Decoder(nn.Module):
    """Words, a masked encoder, scores of words."""

    def __init__(self):
        super().__init__()
        self.words, self.encoder, self.head = nn.Embedding(50, WIDTH), _encoder(), nn.Linear(WIDTH, 50, bias=False)

    def forward(self, ids):
        mask = torch.full((6, 6), float("-inf")).triu(1)
        return self.head(self.encoder(self.words(ids), mask=mask))


IDS = np.random.default_rng(0).integers(0, 50, (4, 6))
NETWORKS = {
    "bert": (Bert, {"ids": IDS}, 1),
    "vit": (Vit, {"images": np.random.default_rng(1).normal(size=(4, 3, 8, 8)).astype(np.float32)}, 0),
    "whisper": (Whisper, {"sound": np.random.default_rng(2).normal(size=(4, 8, 12)).astype(np.float32), "ids": IDS}, 1),
    "decoder": (Decoder, {"ids": IDS}, 1),
}


def written(kind, folder):
    """The network's file, exported by torch, and its samples."""
    maker, data, _ = NETWORKS[kind]
    torch.manual_seed(0)
    torch.backends.mha.set_fastpath_enabled(False)
    inputs = tuple(torch.from_numpy(array) for array in data.values())
    axes = {name: {0: "n"} for name in (*data, "y")}
    file = folder / f"{kind}.onnx"
    torch.onnx.export(
        maker().eval(), inputs, file, input_names=list(data), output_names=["y"], dynamic_axes=axes, dynamo=False
    )
    return file, data


@pytest.mark.parametrize("kind", list(NETWORKS))
@pytest.mark.filterwarnings("ignore")
def test_a_transformer_leaves_in_mixed_bits_with_every_product_a_kernel(kind, tmp_path):
    file, data = written(kind, tmp_path)
    module = qir.load(file)
    steps = "insert-fake-quant{activation_widths=float,block=32,weight_widths=2|4|8},calibrate"
    run_passes(module, f"{SIMPLIFY},{steps}", data=data)
    found = quantizers(module.graph)
    assert all(quantizer.is_weight for quantizer in found.values())
    for quantizer, bits in zip(found.values(), (8, 4, 2) * len(found), strict=False):
        quantizer.bits = bits
    report = export(module, tmp_path / "m.quant.onnx", profile="matmul-nbits", data=data)
    assert (report.reference, report.mismatches) == ("products", 0)
    ops = Counter(node.op for node in qir.load(report.model).graph)
    readers = Counter(user.op for quantizer in found.values() for user in quantizer.result.users)
    assert ops["MatMulNBits"] == readers["MatMul"] + readers["Gemm"]
    assert ops["GatherBlockQuantized"] == readers["Gather"]
    assert ops["DequantizeLinear"] == readers["Conv"], "convolutions have no such kernel"
    assert ops["GatherBlockQuantized"] == NETWORKS[kind][2]
    outputs = OrtSession(report.model, reduced_accuracy=True).run(data)["y"]
    assert np.corrcoef(outputs.ravel(), OrtSession(file).run(data)["y"].ravel())[0, 1] > 0.6
