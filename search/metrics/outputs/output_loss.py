"""How far outputs are from those of the float network, for networks of any kind."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from qir.graph import Graph
from qir.types import TensorType

if TYPE_CHECKING:
    import torch


def scores_classes(graph: Graph) -> bool:
    """Return whether the network has one output, of shape [N, classes]."""
    found = [value.type for value in graph.outputs if value is not None]
    shape = found[0].shape if len(found) == 1 and isinstance(found[0], TensorType) else None
    return shape is not None and len(shape) == 2 and shape[1] != 1


def real(outputs: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Return the outputs that hold floats."""
    return [output for output in outputs if output.is_floating_point()]


def output_loss(made: Sequence[torch.Tensor], aims: Sequence[torch.Tensor], *, classes: bool) -> float:
    """Return divergence of class probabilities in nats, else the mean over the outputs of ‖y - y'‖²/‖y‖².

    Args:
        made: outputs of the quantized network.
        aims: outputs of the float network.
        classes: whether the first output holds scores of classes, [N, classes]; then the mean over the samples of
            KL(softmax(aim) ‖ softmax(made)) (Cai et al., 2020, equation 7, with the float network as the reference).
    """
    import torch.nn.functional as F  # noqa: N812 - the name that PyTorch's own documentation uses

    if classes:
        logits, aim = F.log_softmax(made[0], 1), F.log_softmax(aims[0], 1)
        return float(F.kl_div(logits, aim, log_target=True, reduction="batchmean"))
    shares = [
        float((y - aim).square().sum()) / (float(aim.square().sum()) or 1.0)
        for y, aim in zip(real(made), real(aims), strict=True)
    ]
    return sum(shares) / max(len(shares), 1)
