"""Writes a PyTorch network as ONNX with its BatchNorm nodes in place, the same bytes each time."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import torch

from qir.errors import ModelFileError
from qir.support.atomic_write import atomic_write

if TYPE_CHECKING:
    from pathlib import Path

OPSET = 18


def export_network(network: torch.nn.Module, example: torch.Tensor, file: Path) -> None:
    """Write the network in inference form; the first dimension of input and output is the symbol `batch`.

    TrainingMode.PRESERVE on a network in eval mode keeps each BatchNormalization as a node with training_mode 0: the
    exporter would fold it otherwise. The opset is fixed; with it the exporter fixes ir_version (8 for opset 18).

    Args:
        network: the network; it is put in eval mode.
        example: one input of the shape to export, batch first.
        file: the ONNX file; written under a temporary name, then renamed.

    Raises:
        ModelFileError: the file cannot be written.
    """
    network.eval()
    with warnings.catch_warnings(), atomic_write(file, ModelFileError) as temporary:
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.filterwarnings("ignore", "Converting a tensor to a Python boolean")
        warnings.filterwarnings("ignore", "Exporting a model to ONNX with a batch_size other than 1", UserWarning)
        torch.onnx.export(
            network,
            (example,),
            temporary,
            dynamo=False,
            opset_version=OPSET,
            training=torch.onnx.TrainingMode.PRESERVE,
            do_constant_folding=False,
            input_names=["input"],
            output_names=["logits"],
            dynamic_axes={"input": {0: "batch"}, "logits": {0: "batch"}},
            verbose=False,
        )
