"""Retraining the LSTM text classifier at few bits: table 5 of AutoQNN (Gong et al., 2024) in small, on spam.

    QIR_SPAM_ASSASSIN=... python -m qir.models.train lstm-text-spam --out /tmp/lstm
    QIR_SPAM_ASSASSIN=... OMP_NUM_THREADS=1 python benchmarks text /tmp/lstm/lstm_text_spam_spam_assassin.onnx

All weights (embedding, LSTM, dense layers) and the data of the dense layers have the bits of the row, the logits 4. One
scheme for weights and one for activations; two epochs of retraining with distillation. The LSTM's own products run in
float, with weights that are stored as codes.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch

import qir
from qir.backends import RetrainProtocol, retrain
from qir.backends.torch.module import TorchModule
from qir.backends.training.retrain import accuracy
from qir.fake_quant import quantizers
from qir.models.recipes import training_data
from qir.module import Module
from qir.passes import run_passes
from qir.passes.simplify.canonicalize import SIMPLIFY
from qir.policy import Policy
from qir.tensor import Array

SCHEMES = ("uniform/uniform", "clipq/clipq", "zoomq/potq")
"""Of weights / of activations; the last pair is what the paper's search finds."""

PROTOCOL = RetrainProtocol(epochs=2, batch=64, learning_rate=0.03, distillation=0.5, temperature=2.0)


def prepared(file: Path, schemes: str, images: Array) -> Module:
    """The network with calibrated quantizers of 2, 3 and 4 bits."""
    weights, activations = schemes.split("/")
    module = qir.load(file)
    steps = (
        f"{SIMPLIFY},insert-fake-quant{{weight_scheme={weights},activation_scheme={activations},weight_widths=2|3|4,"
        "activation_widths=2|3|4,output_widths=4},calibrate,fit-bias"
    )
    run_passes(module, steps, data=images)
    return module


def main() -> None:
    """Print one row per scheme and width."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--schemes", nargs="+", default=SCHEMES)
    parser.add_argument("--bits", type=int, nargs="+", choices=(2, 3, 4), default=(2, 3))
    options = parser.parse_args()
    torch.set_num_threads(1)
    data = training_data("spam-assassin")
    test = data.measured["test"]
    rate = accuracy(TorchModule(qir.load(options.file)), test)
    error = (rate * (1 - rate) / len(test)) ** 0.5
    print(f"float {100 * rate:.2f} % of {len(test)} test mails, standard error {100 * error:.2f}\n")
    print("| schemes of weights / activations | bits | calibrated, % | retrained, % | CPU s |")
    print("| --- | --- | --- | --- | --- |")
    for schemes in options.schemes:
        module = prepared(options.file, schemes, data.samples.images[:256])
        for bits in options.bits:
            found = quantizers(module.graph).items()
            policy = Policy({name: bits if bits in quantizer.widths else 4 for name, quantizer in found})
            network, started = TorchModule(module), time.process_time()
            network.set_policy(policy)
            made = TorchModule(retrain(module, policy, data.samples, PROTOCOL))
            rates = " | ".join(f"{100 * accuracy(one, test):.2f}" for one in (network, made))
            print(f"| {schemes} | {bits} | {rates} | {time.process_time() - started:.0f} |", flush=True)


if __name__ == "__main__":
    main()
