"""How images become what a network takes: size, range of pixels, mean, standard deviation, layout.

The values come from options, from a `preprocessing.json`, or from the `preprocessor_config.json` that Hugging Face's
image processors write (huggingface.co/docs/transformers, "Image Processor").
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from qir.errors import DataError
from qir.support.json_text import parse_json, typed
from qir.tensor import Array

OWN, HUGGING_FACE = "preprocessing.json", "preprocessor_config.json"
"""Names of files that are looked for next to the network and in the folder of the data."""

LAYOUTS = ("NCHW", "NHWC", "NHW")
"""Orders of axes."""

LARGEST_IMAGE = 1 << 26
"""Pixels that an image may be given: a few numbers in a file cannot ask for more memory than there is."""

_BILINEAR, _LAST_FILTER = 2, 5
"""Pillow's numbers of filters, which Hugging Face's files use."""


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """What is done with an image. None and empty texts are found from the network.

    Attributes:
        size: (height, width) that the network gets, in pixels.
        resize: length in pixels that the shorter edge is brought to before `size` is cut from the centre; 0 = the
            smallest one that `size` fits into. Nothing where images are stretched.
        stretch: whether images are brought to `size` as they are, whatever their proportions.
        range: what pixels 0 and 255 become before mean and standard deviation; by default (0, 1), and (0, 255) where
            the mean is given in pixels or the network takes integers.
        mean: subtracted, one number a channel or one for all.
        std: divided by, likewise.
        layout: one of `LAYOUTS`.
        bgr: whether channels are blue, green, red.
        filter: number of Pillow's filter: 0 nearest, 1 Lanczos, 2 bilinear, 3 bicubic, 4 box, 5 Hamming.
        source: where the values come from, in words.
    """

    size: tuple[int, int] | None = None
    resize: int = 0
    stretch: bool = False
    range: tuple[float, float] | None = None
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    layout: str = ""
    bgr: bool = False
    filter: int = _BILINEAR
    source: str = ""

    def __post_init__(self) -> None:
        """Check the values; `DataError` where one cannot be right."""
        if self.layout and self.layout not in LAYOUTS:
            raise DataError(f"layout {self.layout!r}: expected one of {', '.join(LAYOUTS)}")
        if self.size is not None and min(self.size) < 1:
            raise DataError(f"size {self.size}: expected height and width above 0")
        if self.size is not None and self.size[0] * self.size[1] > LARGEST_IMAGE:
            raise DataError(f"size {self.size}: expected at most {LARGEST_IMAGE:,} pixels")
        if self.range is not None and len(self.range) != 2:
            raise DataError(f"range {self.range}: expected what pixels 0 and 255 become, two numbers")
        if not 0 <= self.filter <= _LAST_FILTER or self.resize < 0:
            raise DataError(f"filter {self.filter}, resize {self.resize}: expected a filter of 0 to 5, and pixels")
        if not all(np.isfinite(value) for value in (*self.mean, *self.std, *(self.range or ()))):
            raise DataError("preprocessing: mean, std and range must be finite")
        if any(value <= 0 for value in self.std):
            raise DataError(f"std {self.std}: expected numbers above 0")

    def with_options(self, options: Preprocessing) -> Preprocessing:
        """Return these values, replaced by those that the options give."""
        plain = Preprocessing()
        names = [field.name for field in fields(self) if field.name != "source"]
        given = {name: found for name in names if (found := getattr(options, name)) != getattr(plain, name)}
        if "size" in given:
            given = {"resize": 0, **given}  # the file's edge belongs to the file's size
        sources = [text for text in (self.source, "options" if given else "") if text]
        return replace(self, **given, source=" and ".join(sources))

    @property
    def pixels(self) -> tuple[float, float]:
        """What pixels 0 and 255 become before mean and standard deviation."""
        in_pixels = any(abs(value) > 2 for value in (*self.mean, *self.std))
        return self.range or ((0.0, 255.0) if in_pixels else (0.0, 1.0))

    @property
    def reach(self) -> tuple[float, float]:
        """The least and the largest number that a network gets."""
        low, high = self.pixels
        mean, std = np.atleast_1d(self.mean or 0.0), np.atleast_1d(self.std or 1.0)
        return float(((low - mean) / std).min()), float(((high - mean) / std).max())

    def normalize(self, pixels: Array) -> Array:
        """Return pixels uint8 [..., channels] as float32: range, mean and standard deviation.

        Raises:
            DataError: mean or standard deviation have another number of channels.
        """
        low, high = self.pixels
        found = pixels.astype(np.float32) * np.float32((high - low) / 255) + np.float32(low)
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) not in {0, 1, pixels.shape[-1]}:
                raise DataError(
                    f"{name} has {len(values)} numbers; the images have {pixels.shape[-1]} channels: give one a channel"
                )
        if self.mean:
            found -= np.asarray(self.mean, np.float32)
        if self.std:
            found /= np.asarray(self.std, np.float32)
        return found

    @property
    def text(self) -> str:
        """The values in words."""
        low, high = self.pixels
        parts = [f"pixels {low:g} to {high:g}"]
        parts += [f"mean {_numbers(self.mean)}"] * bool(self.mean) + [f"std {_numbers(self.std)}"] * bool(self.std)
        return ", ".join(parts) + (f" (from {self.source})" if self.source else " (by default)")


def preprocessing_near(*places: str | Path | None) -> Preprocessing:
    """Return the values of a file: of the first place that is one, or that is a folder that holds one.

    Else the defaults.

    Args:
        places: files of preprocessing, folders that may hold one, or networks (their folder is looked into).
    """
    for place in places:
        if place is None:
            continue
        path = Path(place)
        if path.suffix == ".json":
            return read_preprocessing(path)
        folder = path if path.is_dir() else path.parent
        for name in (OWN, HUGGING_FACE):
            if (folder / name).is_file():
                return read_preprocessing(folder / name)
    return Preprocessing()


def read_preprocessing(path: str | Path) -> Preprocessing:
    """Return the values of a `preprocessing.json` or a `preprocessor_config.json`.

    Raises:
        DataError: the file cannot be read or holds what is no such value.
    """
    try:
        given = parse_json(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read as preprocessing: {error}") from error
    if not isinstance(given, Mapping):
        raise DataError(f"{path}: expected an object with size, mean, std, layout, range")
    hugging_face = any(name in given for name in ("image_mean", "do_normalize", "do_rescale", "image_processor_type"))
    try:
        found = _hugging_face(given) if hugging_face else _own(given)
    except (TypeError, ValueError, KeyError, OverflowError) as error:
        raise DataError(f"{path}: {type(error).__name__}: {error}; expected size, mean, std, layout, range") from error
    return replace(found, source=Path(path).name)


def _own(given: Mapping[str, Any]) -> Preprocessing:
    known = {field.name for field in fields(Preprocessing)} - {"source"}
    if unknown := sorted(given.keys() - known):
        raise ValueError(f"unknown field {unknown[0]!r}; known: {', '.join(sorted(known))}")
    made: dict[str, Any] = dict(given)
    for name in ("mean", "std", "range"):
        if name in made:
            made[name] = _floats(made[name])
    if "size" in made:
        made["size"] = _size(made["size"])
    read: Preprocessing = typed(Preprocessing, made)
    return read


def _hugging_face(given: Mapping[str, Any]) -> Preprocessing:
    size, crop = (
        given.get("size"),
        given.get("crop_size") if given.get("do_center_crop", "crop_size" in given) else None,
    )
    resized = given.get("do_resize", True)
    shortest = size.get("shortest_edge", 0) if isinstance(size, Mapping) else (size if isinstance(size, int) else 0)
    exact = isinstance(size, Mapping) and "height" in size
    scale = float(given.get("rescale_factor", 1 / 255)) if given.get("do_rescale", True) else 1.0
    normalized = given.get("do_normalize", True)
    final = crop if crop is not None else size if resized else None
    return Preprocessing(
        size=None if final is None else _size(final),
        resize=int(shortest or 0) if crop is not None and resized else 0,
        stretch=bool(exact and crop is None),
        range=(0.0, 255 * scale if abs(255 * scale - 1) > 1e-6 else 1.0),
        mean=_floats(given.get("image_mean") or ()) if normalized else (),
        std=_floats(given.get("image_std") or ()) if normalized else (),
        filter=int(given.get("resample", _BILINEAR)),
    )


def _floats(values: Any) -> tuple[float, ...]:
    return tuple(float(value) for value in (values if isinstance(values, Sequence) else (values,)))


def _size(size: Any) -> tuple[int, int]:
    if isinstance(size, Mapping):
        edge = size.get("shortest_edge")
        return int(size.get("height", edge)), int(size.get("width", edge))
    if isinstance(size, Sequence):
        height, width = size
        return int(height), int(width)
    return int(size), int(size)


def _numbers(values: Sequence[float]) -> str:
    return ", ".join(f"{value:g}" for value in values)
