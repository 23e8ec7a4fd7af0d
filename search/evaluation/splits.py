"""The splits of a network's data: which samples serve for what, under which names; no sample serves for two things."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from qir.errors import DataError
from qir.module import Module
from qir.passes.data.kinds.array_files import read_arrays
from qir.passes.data.recording import readable_again
from qir.passes.data.samples import batches
from qir.passes.parity.agreement import labels_in
from qir.search.evaluation.accuracy import ArraySamples, Samples, read_samples, refuse_shared_images
from qir.tensor import Array

CALIBRATION, RETRAINING, VALIDATION, TEST = "calibration", "retraining", "search-validation", "test"
"""What a split is for, and what it is called where it has no name of its own."""

CALIBRATION_IMAGES = 512
"""Samples of one labelled set that calibrate, where it is divided."""

Labelled = Samples | tuple[Array, Array] | str | Path
"""A labelled split: samples, images and labels, or a .npz file with `images` and `labels`."""


@dataclass(frozen=True)
class Splits:
    """Disjoint samples by what they serve for.

    Attributes:
        calibration: data of any kind that `calibrate` takes.
        labels: int64 [N] of the calibration data: accuracy is told on them, nothing is fitted to them.
        retraining: labelled samples that weights are trained on, None = nothing is retrained.
        validation: labelled samples that policies are judged by, None = no policy is measured.
        test: labelled samples that the finished network is measured on once, or None.
        sources: what each split is called in guide and report, by what it serves for.
    """

    calibration: Any
    labels: Array | None = None
    retraining: Samples | None = None
    validation: Samples | None = None
    test: Samples | None = None
    sources: Mapping[str, str] = field(default_factory=dict)

    @staticmethod
    def read(
        calibration: Any,
        *,
        labels: Array | str | Path | None = None,
        retraining: Labelled | None = None,
        validation: Labelled | None = None,
        test: Labelled | None = None,
    ) -> Splits:
        """Splits from samples, arrays or files.

        Args:
            calibration: samples, or data of any kind that `calibrate` takes; an array `labels` next to them counts.
            labels: of the calibration data: int64 [N], or a .npy file.
            retraining: labelled samples that weights are trained on.
            validation: labelled samples that policies are judged by.
            test: labelled samples that the finished network is measured on once.

        Raises:
            DataError: a file cannot be read, labels do not fit, or an image is in two labelled splits.
        """
        given = {RETRAINING: retraining, VALIDATION: validation, TEST: test}
        read = {role: _labelled(split, role) for role, split in given.items() if split is not None}
        found = list(read.values())
        for index, one in enumerate(found):
            for other in found[index + 1 :]:
                refuse_shared_images(one, other)
        sources = {CALIBRATION: _source(calibration, "the data given")}
        sources |= {role: _source(split, role) for role, split in given.items() if split is not None}
        kept = calibration if isinstance(calibration, Samples) else readable_again(calibration)
        known = _labels(calibration, labels)
        return Splits(kept, known, read.get(RETRAINING), read.get(VALIDATION), read.get(TEST), sources)

    def divided(self, module: Module, *, seed: int = 0) -> Splits:
        """Three splits of labelled data: a quarter judges, a quarter, at most 512, calibrates, the rest trains.

        Samples are drawn at random, so that sets sorted by class are divided evenly.

        Args:
            module: the network, which has one input.
            seed: of the drawing.

        Raises:
            DataError: the data have no labels, or another number of them, or are fewer than four samples.
        """
        if self.labels is None:
            raise DataError("policies are measured by accuracy: give labels, or the splits retraining and validation")
        images, labels = calibration_samples(module, self.calibration).images, self.labels
        if len(images) != len(labels) or len(images) < 4:
            raise DataError(
                f"{len(images)} samples and {len(labels)} labels; expected one label a sample, and four samples or "
                "more, to calibrate, retrain and judge on different ones"
            )
        order, quarter = np.random.default_rng(seed).permutation(len(images)), len(images) // 4
        first = min(quarter, CALIBRATION_IMAGES)
        cuts = {
            CALIBRATION: order[:first],
            VALIDATION: order[first : first + quarter],
            RETRAINING: order[first + quarter :],
        }
        parts = {role: ArraySamples(images[part], labels[part], role) for role, part in cuts.items()}
        sources = {role: f"{len(part)} of the {len(images)} samples given" for role, part in cuts.items()}
        return replace(
            self,
            calibration=parts[CALIBRATION],
            retraining=parts[RETRAINING],
            validation=parts[VALIDATION],
            labels=None,
            sources={**self.sources, **sources},
        )

    @property
    def judged(self) -> Samples | None:
        """The labelled samples that accuracy is told on: the test split, else the one that chose the bits."""
        return self.test or self.validation


def calibration_samples(module: Module, data: Any) -> Samples:
    """Calibration data as images of one array, for what measures networks with one input.

    Raises:
        DataError: the network has more than one input, or the data do not fit.
    """
    if isinstance(data, Samples):
        return data
    arrays = read_arrays(data) if isinstance(data, str | Path) else data
    if isinstance(arrays, Mapping) and "images" in arrays:
        arrays = arrays["images"]
    feeds = list(batches(module, arrays))
    if len(feeds[0]) != 1:
        raise DataError(f"policies are measured on networks with one input; this one has {', '.join(feeds[0])}")
    images = np.concatenate([next(iter(feed.values())) for feed in feeds])
    return ArraySamples(images, np.zeros(len(images), np.int64), CALIBRATION)


def calibration_file(path: str | Path) -> Samples | str | Path:
    """The images of a .npz file with `images`, whose labels are not used; other data as they are.

    Raises:
        DataError: the file cannot be read, or holds no `images`.
    """
    return replace(read_samples(path, CALIBRATION, labelled=False), split=Path(path).name)


def _labelled(split: Labelled, role: str) -> Samples:
    if isinstance(split, str | Path):
        return read_samples(split, role)
    if isinstance(split, tuple):
        images, labels = (np.asarray(part) for part in split)
        if len(images) != len(labels):
            raise DataError(f"split {role}: {len(images)} images but {len(labels)} labels; expected as many")
        return ArraySamples(images.astype(np.float32), labels.astype(np.int64), role)
    return split


def _labels(calibration: Any, labels: Array | str | Path | None) -> Array | None:
    if labels is None and isinstance(calibration, Samples):
        return calibration.labels
    if labels is None:
        found = labels_in(calibration, CALIBRATION)
        return None if found is None else found.labels
    array = read_arrays(labels) if isinstance(labels, str | Path) else np.asarray(labels)
    if not isinstance(array, np.ndarray) or array.ndim != 1 or array.dtype.kind not in "iu":
        raise DataError(f"labels: {labels!r} are not class numbers; expected integers [N], or a .npy file of them")
    return array.astype(np.int64)


def _source(split: Any, otherwise: str) -> str:
    return Path(split).name if isinstance(split, str | Path) else str(getattr(split, "split", otherwise))
