"""How far outputs are from those of the float network, for networks of any kind."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from qir.graph import Graph
from qir.tensor import Array
from qir.types import TensorType


def scores_classes(graph: Graph) -> bool:
    """Return whether the network has one output, of shape [N, classes]."""
    found = [value.type for value in graph.outputs if value is not None]
    shape = found[0].shape if len(found) == 1 and isinstance(found[0], TensorType) else None
    return shape is not None and len(shape) == 2 and shape[1] != 1


def output_loss(made: Sequence[Array], aims: Sequence[Array], *, classes: bool) -> float:
    """Return divergence of class probabilities in nats, else the mean over the outputs of ‖y - y'‖²/‖y‖².

    Args:
        made: outputs of the quantized network; those that hold no floats are passed over.
        aims: outputs of the float network.
        classes: whether the first output holds scores of classes, [N, classes]; then the mean over the samples of
            KL(softmax(aim) ‖ softmax(made)) (Cai et al., 2020, equation 7, with the float network as the reference).
    """
    from scipy.special import log_softmax

    if classes:
        logits, aim = (log_softmax(outputs[0].astype(np.float64), axis=1) for outputs in (made, aims))
        return float((np.exp(aim) * (aim - logits)).sum() / max(len(aim), 1))
    shares = [
        float(np.square(y.astype(np.float64) - aim).sum()) / (float(np.square(aim.astype(np.float64)).sum()) or 1.0)
        for y, aim in zip(made, aims, strict=True)
        if aim.dtype.kind not in "iub"
    ]
    return sum(shares) / max(len(shares), 1)
