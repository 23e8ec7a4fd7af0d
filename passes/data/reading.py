"""The one loader: data of any kind, read for a network, with their labels and what was understood of them."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from pathlib import Path

import numpy as np

from qir.errors import DataError
from qir.module import Module
from qir.passes.data.kinds.preprocessing import Preprocessing, preprocessing_near
from qir.passes.data.kinds.source import Data, Source
from qir.passes.data.samples import batches
from qir.passes.data.sources import inputs_of, labels_of_item, open_source
from qir.passes.data.understanding import LOOKED_AT, Understanding, understand
from qir.tensor import Array


class Samples:
    """Samples of a named split, read for a network; every function that takes data takes them.

    Attributes:
        source: what they are read from.
        labels: int64 [N], in order; None where there are none.
        split: name of the split.
        understood: what they are taken for.
    """

    def __init__(self, source: Source, module: Module, split: str, understood: Understanding) -> None:
        self.source, self.split, self.understood = source, split, understood
        self.labels = source.labels
        self._module = module

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes by label; empty where only numbers are known."""
        return self.source.classes

    @cached_property
    def images(self) -> Array:
        """All samples of the one input as one array [N, …], in memory.

        Raises:
            DataError: the network has several inputs, or the samples have several shapes.
        """
        feeds = [next(iter(feed.values())) for feed in batches(self._module, self) if len(feed) == 1]
        if not feeds:
            names = ", ".join(value.name for value in inputs_of(self._module))
            raise DataError(f"{self.split}: expected samples of one input; the network takes {names}")
        if len({feed.shape[1:] for feed in feeds}) > 1:
            raise DataError(f"{self.split}: the samples have several shapes; expected one")
        return feeds[0] if len(feeds) == 1 else np.concatenate(feeds)

    def __len__(self) -> int:
        """Return the number of samples; reads them where only reading tells."""
        return len(self.images) if self.source.count is None else self.source.count


def read_samples(
    data: Data,
    module: Module,
    *,
    split: str = "the data given",
    labelled: bool = False,
    preprocessing: Preprocessing | None = None,
    network: str | Path | None = None,
    most: int | None = None,
) -> Samples:
    """Return samples of any kind for a network.

    Args:
        data: a .npy or .npz file (with `labels`), a folder of images or of class folders (Pillow, the extra `images`),
            a folder of WAV files, lines of ids (.txt), an array, a map of arrays by name, feeds, a generator, a
            `DataLoader`, a `CalibrationDataReader`, or `Samples`.
        module: float network, as it was read; not changed.
        split: name of the split.
        labelled: whether labels are needed.
        preprocessing: what is done with images; what it leaves open comes from a `preprocessing.json` or
            `preprocessor_config.json` in the folder of the data or next to the network, else from the input's type.
        network: the network's file, next to which preprocessing is looked for.
        most: samples of a folder or a file of lines that are read at most: evenly spread, of every class.

    Returns:
        The samples: they can be read again and again, batch by batch; what could be read once is kept in a temporary
        file.

    Raises:
        DataError: the data are of no known kind, empty, do not fit the inputs, or lack labels that are needed.
        MissingExtraError: images are given and Pillow is not installed.
    """
    if isinstance(data, Samples):
        return data
    folder = data if isinstance(data, str | Path) and Path(data).is_dir() else None
    filed = preprocessing_near(folder, network) if folder is None else _first_of(folder, network)
    how = filed if preprocessing is None else filed.with_options(preprocessing)
    source = _with_labels(open_source(data, module, how, most), module, needed=labelled, split=split)
    feed = next(iter(batches(module, source, batch=LOOKED_AT)))
    return Samples(source, module, split, understand(module, source, feed, filed if filed.source else None))


def _first_of(folder: str | Path, network: str | Path | None) -> Preprocessing:
    """Return what a file in the folder of the data says, else one next to the network."""
    found = preprocessing_near(folder)
    return found if found.source else preprocessing_near(network)


def _with_labels(source: Source, module: Module, *, needed: bool, split: str) -> Source:
    """Return the source with labels that are class numbers, one a sample, or without any."""
    labels = source.labels
    if labels is None and needed:
        labels = _handed_out(source, len(inputs_of(module)))
    if labels is None:
        if needed:
            raise DataError(f"{split}: {source.what}: lacks labels: give class folders, or a .npz file with `labels`")
        return source
    wrong = _wrong(labels, source.count)
    if wrong and needed:
        raise DataError(f"{split}: {source.what}: {wrong}")
    if wrong:
        return replace(source, labels=None, notes=(*source.notes, f"labels are left out: {wrong}"))
    return replace(source, labels=labels.astype(np.int64))


def _wrong(labels: Array, count: int | None) -> str:
    if count is not None and len(labels) != count:
        return f"{count} samples but labels of shape {labels.shape}; expected one a sample"
    if labels.dtype.kind not in "iufb" or not np.array_equal(labels, labels.astype(np.int64)):
        return f"labels of type {labels.dtype} are not class numbers; expected integers"
    return ""


def _handed_out(source: Source, inputs: int) -> Array | None:
    """Return labels that a loader hands out after the inputs."""
    found = [labels_of_item(item, inputs) for item in source.items]
    known = [labels for labels in found if labels is not None]
    return np.concatenate(known) if known and len(known) == len(found) else None
