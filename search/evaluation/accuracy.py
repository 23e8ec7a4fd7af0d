"""What a policy is worth: accuracy on the search-validation split after affine correction and short retraining.

The network is built once; a policy only chooses grids. Every evaluation starts from the float weights, so its value
depends on the policy alone and is the same in any order and process. Without retraining the float weights never change,
and what layers computed for one policy serves the next (`qir.search.evaluation.reuse`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np

from qir.errors import DataError
from qir.fake_quant import quantizers
from qir.module import Module
from qir.passes.analysis.quantized_layers import quantized_layers
from qir.passes.constraints.policies import apply_policy
from qir.passes.constraints.propagate_constraints import BitConstraints
from qir.passes.correction.correct import fold_affine
from qir.passes.data.samples import KEPT, fitting_batch
from qir.policy import Bits
from qir.search.evaluation.identity import data_digest, module_digest
from qir.search.problem.channels import completed
from qir.support.hooks import function_of
from qir.tensor import Array

if TYPE_CHECKING:
    from qir.backends.torch.module import TorchModule
    from qir.backends.training.affine_correction import AffineCorrection
    from qir.backends.training.loop import RetrainProtocol


@runtime_checkable
class Samples(Protocol):
    """Images of a named split with labels (`qir.models` returns such)."""

    @property
    def images(self) -> Array:
        """Images float32 [N, …]."""

    @property
    def labels(self) -> Array:
        """Labels int64 [N]."""

    @property
    def split(self) -> str:
        """Name of the split."""


@dataclass(frozen=True, slots=True)
class ArraySamples:
    """Samples from arrays: images float32 [N, …], labels int64 [N], name of the split."""

    images: Array
    labels: Array
    split: str


def refuse_shared_images(one: Samples, other: Samples) -> None:
    """Refuse splits that are not disjoint: what was trained on judges nothing.

    Raises:
        DataError: an image is in both; the message counts them and gives the place of the first.
    """
    known = {hashlib.sha256(image.tobytes()).digest() for image in one.images}
    shared = [index for index, image in enumerate(other.images) if hashlib.sha256(image.tobytes()).digest() in known]
    if shared:
        raise DataError(
            f"{len(shared)} of the {len(other.images)} images of {other.split} are in {one.split} too (the first is "
            f"number {shared[0]}): a search needs disjoint splits, remove them from one"
        )


def search_identity(
    module: Module, validation: Samples, protocol: EvaluationProtocol, *others: Samples
) -> dict[str, str]:
    """Return what a measured value depends on next to the policy: hashes of the calibrated network, data and protocol.

    Args:
        module: calibrated network.
        validation: samples that accuracy is measured on.
        protocol: how.
        others: samples of the calibration and the retraining split.
    """
    samples = (validation, *others)
    return {
        "model": module_digest(module),
        "data": data_digest(*(array for s in samples for array in (s.images, s.labels))),
        "protocol": protocol.digest(),
    }


@dataclass(frozen=True, slots=True)
class EvaluationProtocol:
    """How a policy is measured.

    Attributes:
        correct: fit the channel-wise affine correction.
        correction_images: images of the calibration split that it is fitted to, fewer of large ones.
        retrain: retraining protocol, None = no retraining.
        batch: images of a forward pass, fewer of large ones.
        hopeless: a policy that cannot reach this accuracy any more is left at its share so far; 0 = measure all.
        train: a function of the user's that trains in place of the protocol, `module:function`; empty = none. It is
            called with the network (`TorchModule`, at its bits), images float32 [N, …], labels int64 [N] and
            `correction=`, the affine correction in force or None, and changes the network's parameters in place.
    """

    correct: bool = True
    correction_images: int = 256
    retrain: RetrainProtocol | None = None
    batch: int = 500
    hopeless: float = 0.0
    train: str = ""

    def digest(self) -> str:
        """Hash of the protocol, for the store."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()


class AccuracyObjective:
    """Accuracy of a policy, 0 to 1, by the protocol; a callable for `Problem.objective`.

    Args:
        module: calibrated network; not changed.
        constraints: completes decisions to a policy.
        calibration: samples that the correction is fitted to (labels unused).
        validation: samples that accuracy is measured on.
        retraining: samples of the retraining split, needed when the protocol retrains.
        protocol: how.

    Raises:
        DataError: retraining is asked for without its split, or two splits have the same name.
    """

    def __init__(
        self,
        module: Module,
        constraints: BitConstraints,
        *,
        calibration: Samples,
        validation: Samples,
        retraining: Samples | None = None,
        protocol: EvaluationProtocol | None = None,
    ) -> None:
        import torch

        from qir.backends.torch.module import TorchModule
        from qir.search.evaluation.reuse import Corrector, ReusingNetwork, new_tag

        self.protocol = protocol or EvaluationProtocol()
        names = [s.split for s in (calibration, validation, retraining) if s is not None]
        if len(set(names)) != len(names):
            raise DataError(
                f"splits {names}: calibration, retraining and validation are disjoint splits with names of their own"
            )
        if self.protocol.retrain is not None and retraining is None:
            raise DataError("the protocol retrains: give the samples of the retraining split")
        self.module, self.constraints, self.calibration = module, constraints, calibration
        self.validation, self.retraining = validation, retraining
        kind = ReusingNetwork if self.protocol.retrain is None else TorchModule
        self.network: TorchModule = kind(module)
        if self.protocol.retrain is not None or self.protocol.train:
            self.network.require_gradients()
        self._start = {name: p.detach().clone() for name, p in self.network.trainable_constants().items()}
        self._changed = False
        layers = (layer.node.result for layer in quantized_layers(module.graph))
        fitted = fitting_batch(layers, self.protocol.correction_images, memory=KEPT)
        images = torch.from_numpy(calibration.images[:fitted])
        self._corrector = Corrector(self.network, images) if self.protocol.correct else None
        self._tag = new_tag()

    def __call__(self, decided: Mapping[str, Bits]) -> float:
        """Return accuracy on the validation split.

        Of a policy that cannot reach the protocol's `hopeless`, an estimate.
        """
        from qir.search.evaluation.reuse import reusing

        correction = self.prepare(decided)
        with reusing(self.network, self._tag):
            return self.accuracy(self.validation, correction, hopeless=self.protocol.hopeless)

    def __reduce__(self) -> tuple[Any, ...]:
        from qir.search.evaluation.parallel import sent

        names = ("constraints", "calibration", "validation", "retraining", "protocol")
        return sent(AccuracyObjective, self.module, **{name: getattr(self, name) for name in names})

    def prepare(self, decided: Mapping[str, Bits], retrain: RetrainProtocol | None = None) -> AffineCorrection | None:
        """Bring the network to a policy: float weights, correction, retraining (`retrain` replaces the protocol's)."""
        from qir.backends.training.loop import retrain_network

        if self._changed:
            self.reset()
        self.network.set_policy(completed(self.constraints, decided))
        correction = None if self._corrector is None else self._corrector.fit()
        plan = retrain or self.protocol.retrain
        if self.protocol.train and self.retraining is not None:
            self._changed = True
            own = function_of(self.protocol.train)
            own(self.network, self.retraining.images, self.retraining.labels, correction=correction)
        elif plan is not None and self.retraining is not None:
            self._changed = True
            retrain_network(self.network, self.retraining.images, self.retraining.labels, plan, correction=correction)
        return correction

    def accuracy(self, samples: Samples, correction: AffineCorrection | None = None, *, hopeless: float = 0.0) -> float:
        """Share of samples that the network classifies right, as it stands; `hopeless` as in `accuracy_of`."""
        values = (value for value in self.module.graph.values() if not value.is_constant)
        batch = fitting_batch(values, self.protocol.batch, memory=KEPT)
        return accuracy_of(self.network, samples, batch=batch, hook=correction, hopeless=hopeless)

    def finalize(self, module: Module, decided: Mapping[str, Bits], retrain: RetrainProtocol | None = None) -> Module:
        """Return a copy of the module at the policy, retrained, with correction in weights, ranges and biases."""
        correction = self.prepare(decided, retrain)
        made = module.clone()
        policy = completed(self.constraints, decided)
        apply_policy(made, policy)
        self.network.write_back(made)
        for quantizer in quantizers(made.graph).values():
            quantizer.is_stale = False
        if correction is not None:
            twins = dict(zip(self.network.graph.nodes, made.graph.nodes, strict=True))
            fold_affine(made, {twins[node]: terms for node, terms in correction.terms.items()})
        return made

    def reset(self) -> None:
        """Back to the float weights."""
        import torch

        with torch.no_grad():
            for name, parameter in self.network.trainable_constants().items():
                parameter.copy_(self._start[name])
        self.network.forget_weights()
        self._changed = False


def accuracy_of(
    network: TorchModule,
    samples: Samples,
    *,
    batch: int = 500,
    hook: AffineCorrection | None = None,
    hopeless: float = 0.0,
) -> float:
    """Share of samples whose largest output is their label, 0 to 1.

    Args:
        network: the network.
        samples: images and labels.
        batch: images of a forward pass.
        hook: correction that is in force.
        hopeless: once so many samples are wrong that this accuracy is out of reach, the rest is not computed and the
            share among those seen is returned.
    """
    import torch

    from qir.search.evaluation.reuse import numbered

    right, total = 0, len(samples.labels)
    for start in range(0, total, batch):
        labels = samples.labels[start : start + batch]
        with torch.no_grad(), numbered(network, start):
            (logits, *_) = network(torch.from_numpy(samples.images[start : start + batch]), hook=hook)
        right += int((logits.argmax(1).numpy() == labels).sum())
        seen = start + len(labels)
        if right + total - seen < hopeless * total:
            return right / seen
    return right / total


def standard_error(accuracy: float, images: int) -> float:
    """Return the standard error of an accuracy measured on so many images: sqrt(p (1 - p) / n)."""
    return float(np.sqrt(accuracy * (1 - accuracy) / images))
