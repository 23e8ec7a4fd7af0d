"""The splits of a network's data: which samples serve for what, under which names; no sample serves for two things."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from qir.errors import DataError
from qir.module import Module
from qir.passes.calibration.distill_data import DISTILLED
from qir.passes.data.kinds.array_files import read_arrays
from qir.passes.data.kinds.preprocessing import Preprocessing
from qir.passes.data.kinds.source import Data
from qir.passes.data.reading import Samples as ReadSamples
from qir.passes.data.reading import read_samples
from qir.passes.data.recording import readable_again
from qir.search.evaluation.accuracy import ArraySamples, Samples, refuse_shared_images
from qir.tensor import Array

CALIBRATION, RETRAINING, VALIDATION, TEST = "calibration", "retraining", "search-validation", "test"
"""What a split is for, and what it is called where it has no name of its own."""

CALIBRATION_IMAGES = 512
"""Samples of one labelled set that calibrate, where it is divided."""

Labelled = Samples | tuple[Array, Array] | str | Path
"""A labelled split: samples, images and labels, a .npz file with `images` and `labels`, or class folders."""


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
        unread: labelled files and folders by what they serve for, which are read for a network (`opened`).
        images: what is done with images of folders; what it leaves open is found.
        notes: what the data were taken for, once they are opened.
    """

    calibration: Any
    labels: Array | None = None
    retraining: Samples | None = None
    validation: Samples | None = None
    test: Samples | None = None
    sources: Mapping[str, str] = field(default_factory=dict)
    unread: Mapping[str, str | Path] = field(default_factory=dict)
    images: Preprocessing | None = None
    notes: tuple[str, ...] = ()

    @staticmethod
    def read(
        calibration: Data | Samples,
        *,
        labels: Array | str | Path | None = None,
        retraining: Labelled | None = None,
        validation: Labelled | None = None,
        test: Labelled | None = None,
        images: Preprocessing | None = None,
    ) -> Splits:
        """Return splits from samples, arrays or files; files are read once there is a network (`opened`).

        Args:
            calibration: samples, or data of any kind that `calibrate` takes; an array `labels` next to them counts.
            labels: of the calibration data: int64 [N], or a .npy file.
            retraining: labelled samples that weights are trained on.
            validation: labelled samples that policies are judged by.
            test: labelled samples that the finished network is measured on once.
            images: what is done with images of folders.

        Raises:
            DataError: labels do not fit, or an image is in two labelled splits.
        """
        splits = {RETRAINING: retraining, VALIDATION: validation, TEST: test}
        given = {role: split for role, split in splits.items() if split is not None}
        unread = {role: split for role, split in given.items() if isinstance(split, str | Path)}
        read = {role: _labelled(split, role) for role, split in given.items() if not isinstance(split, str | Path)}
        _refuse_shared(read)
        sources = {CALIBRATION: _source(calibration, "the data given")}
        sources |= {role: _source(split, role) for role, split in given.items()}
        known = _labels(calibration, labels)
        kept, three = readable_again(calibration), (read.get(RETRAINING), read.get(VALIDATION), read.get(TEST))
        return Splits(kept, known, *three, sources, unread, images)

    def opened(self, module: Module, network: str | Path | None = None) -> Splits:
        """Return the splits with their files and folders read for a network.

        Args:
            module: float network.
            network: its file, next to which preprocessing is looked for.

        Raises:
            DataError: a file cannot be read or does not fit, or an image is in two labelled splits.
        """
        how: dict[str, Any] = {"preprocessing": self.images, "network": network}
        read: dict[str, Samples] = {}
        for role, path in self.unread.items():
            read[role] = as_arrays(read_samples(path, module, split=role, labelled=True, **how))
        found = {RETRAINING: self.retraining, VALIDATION: self.validation, TEST: self.test}
        held = {role: split for role, split in {**found, **read}.items() if split is not None}
        if read:
            _refuse_shared(held)
        calibration, labels, notes = self.calibration, self.labels, self.notes
        if not _is_read(calibration):
            calibration = read_samples(calibration, module, split=CALIBRATION, **how)
        if isinstance(calibration, ReadSamples):
            labels = calibration.labels if labels is None else labels
            notes = tuple(calibration.understood.lines)
        return replace(
            self,
            calibration=calibration,
            labels=labels,
            retraining=held.get(RETRAINING),
            validation=held.get(VALIDATION),
            test=held.get(TEST),
            unread={},
            notes=notes,
        )

    def divided(self, module: Module, *, seed: int = 0) -> Splits:
        """Return three splits of labelled data: a quarter judges, a quarter, at most 512, calibrates, the rest trains.

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
    if isinstance(data, ArraySamples):
        return data
    if not isinstance(data, ReadSamples) and isinstance(data, Samples):
        return data
    return as_arrays(read_samples(data, module, split=CALIBRATION))


def as_arrays(samples: ReadSamples) -> ArraySamples:
    """Return samples of one input in memory; labels are 0 where there are none.

    Raises:
        DataError: the network has more than one input, or the samples have several shapes.
    """
    images = samples.images.astype(np.float32, copy=False)
    labels = np.zeros(len(images), np.int64) if samples.labels is None else samples.labels
    return ArraySamples(images, labels, samples.split)


def _is_read(data: Any) -> bool:
    """Return whether data are samples already, or none that are read."""
    if data is None or isinstance(data, ReadSamples | ArraySamples):
        return True
    return str(data) == DISTILLED if isinstance(data, str | Path) else isinstance(data, Samples)


def _refuse_shared(splits: Mapping[str, Samples]) -> None:
    found = list(splits.values())
    for index, one in enumerate(found):
        for other in found[index + 1 :]:
            refuse_shared_images(one, other)


def _labelled(split: Samples | tuple[Array, Array], role: str) -> Samples:
    if isinstance(split, tuple):
        images, labels = (np.asarray(part) for part in split)
        if len(images) != len(labels):
            raise DataError(f"split {role}: {len(images)} images but {len(labels)} labels; expected as many")
        return ArraySamples(images.astype(np.float32), labels.astype(np.int64), role)
    return split


def _labels(calibration: Any, labels: Array | str | Path | None) -> Array | None:
    if labels is None:
        return calibration.labels if isinstance(calibration, ArraySamples | ReadSamples) else None
    return class_numbers(labels)


def class_numbers(labels: Array | str | Path) -> Array:
    """Return the class of each sample as int64 [N]: an array of integers, or the .npy file that holds one.

    Raises:
        DataError: the file cannot be read, or holds something else.
    """
    array = read_arrays(labels) if isinstance(labels, str | Path) else np.asarray(labels)
    if not isinstance(array, np.ndarray) or array.ndim != 1 or array.dtype.kind not in "iu":
        raise DataError(f"labels: {labels!r} are not class numbers; expected integers [N], or a .npy file of them")
    return array.astype(np.int64)


def _source(split: Any, otherwise: str) -> str:
    return Path(split).name if isinstance(split, str | Path) else str(getattr(split, "split", otherwise))
