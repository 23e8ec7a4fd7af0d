"""Folders of images and of class folders, decoded with Pillow one image at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from qir.errors import DataError, MissingExtraError
from qir.graph import Value
from qir.passes.data.kinds.folders import files_in
from qir.passes.data.kinds.preprocessing import LARGEST_IMAGE, Preprocessing
from qir.passes.data.kinds.source import Source
from qir.tensor import Array, numpy_dtype
from qir.types import TensorType

if TYPE_CHECKING:
    from PIL import Image

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".ppm", ".pgm", ".tif", ".tiff"})
"""How names of images end, in lower case."""

_MODES = {1: "L", 3: "RGB", 4: "RGBA"}
"""Pillow's name of images with so many channels."""


@dataclass(frozen=True)
class _Form:
    """What an input takes: layout, height and width (None = any), channels, element type."""

    layout: str
    size: tuple[int | None, int | None]
    channels: int
    dtype: np.dtype[Any]


def image_source(folder: Path, value: Value, wanted: Preprocessing, most: int | None = None) -> Source:
    """Return the images of a folder, as one input takes them.

    Args:
        folder: images, or one folder a class.
        value: the input.
        wanted: size, mean, … ; what it leaves open is found from the input.
        most: images that are read at most.

    Raises:
        DataError: there are no images, the input takes none, or sizes contradict each other.
        MissingExtraError: Pillow is not installed.
    """
    files, form = files_in(folder, SUFFIXES).first(most), _form(value, wanted)
    height, width = form.size
    size = wanted.size or ((height, width) if height and width else None)
    if size is not None and any(n not in {None, m} for n, m in zip(form.size, size, strict=True)):
        raise DataError(f"input {value.name!r} takes {value.type}; the size {size[0]} x {size[1]} does not fit")
    integers = form.dtype.kind in "iu"
    chosen = replace(
        wanted, size=size, layout=form.layout, range=(0.0, 255.0) if integers and not wanted.range else wanted.range
    )
    images = _Images(files.paths, chosen, form)
    if size is None:
        sizes = {image.shape for image in (images.read(path) for path in files.paths[:2])}
        if len(sizes) > 1:
            raise DataError(
                f"{folder}: images of several sizes, and input {value.name!r} takes any: give --size, such as 224x224"
            )
    count = len(files.paths)
    return Source(images, f"{count:,} images", count, files.labels, files.classes, chosen)


def _form(value: Value, wanted: Preprocessing) -> _Form:
    known = value.type
    shape = known.shape if isinstance(known, TensorType) else None
    if shape is not None and len(shape) == 3 and any(shape[k] in _MODES for k in (0, 2)):
        shape = (1, *shape)  # one image, without an axis of samples
    if not isinstance(known, TensorType) or shape is None or len(shape) not in {3, 4}:
        raise DataError(
            f"input {value.name!r} takes {value.type}; images fit inputs of three or four axes: give the data as arrays"
        )
    layout = wanted.layout or _layout(shape)
    if len(layout) != len(shape):
        raise DataError(f"layout {layout}: input {value.name!r} takes {value.type}")
    size = tuple(dim if isinstance(dim := shape[layout.index(axis)], int) else None for axis in "HW")
    channels = shape[layout.index("C")] if "C" in layout else 1
    found = channels if isinstance(channels, int) else 3
    if found not in _MODES:
        raise DataError(
            f"input {value.name!r} takes {value.type}: in the layout {layout} its images have {found} channels; "
            "expected 1, 3 or 4: give --layout"
        )
    return _Form(layout, (size[0], size[1]), found, numpy_dtype(known.dtype))


def _layout(shape: tuple[Any, ...]) -> str:
    """Return where the channels lie: the axis of 1 or 3 numbers, else of 4; the first one of two."""
    if len(shape) == 3:
        return "NHW"
    last = shape[1] not in {1, 3} if shape[3] in {1, 3} else shape[3] in _MODES and shape[1] not in _MODES
    return "NHWC" if last else "NCHW"


class _Images:
    """Arrays of one image each, read from the files whenever they are asked for."""

    def __init__(self, paths: tuple[Path, ...], preprocessing: Preprocessing, form: _Form) -> None:
        self.paths, self.preprocessing, self.form = paths, preprocessing, form

    def __iter__(self) -> Iterator[Array]:
        for path in self.paths:
            yield self.read(path)[None]

    def read(self, path: Path) -> Array:
        """Return one image in the layout and element type of the input, without the axis of samples.

        Raises:
            DataError: the file is damaged or no image; mean or std do not fit.
        """
        how = self.preprocessing
        pixels = _pixels(path, _MODES[self.form.channels], how)
        if how.bgr and pixels.shape[-1] > 1:
            pixels = pixels[..., [2, 1, 0, *range(3, pixels.shape[-1])]]
        found = how.normalize(pixels)
        if self.form.dtype.kind in "iu":
            found = found.round().clip(np.iinfo(self.form.dtype).min, np.iinfo(self.form.dtype).max)
        found = found.astype(self.form.dtype)
        if how.layout == "NHW":
            return found[..., 0]
        return np.ascontiguousarray(found.transpose(2, 0, 1)) if how.layout == "NCHW" else found


def _pixels(path: Path, mode: str, how: Preprocessing) -> Array:
    """Return pixels uint8 [height, width, channels], resized and cut."""
    try:
        from PIL import Image, ImageOps
    except ImportError:
        raise MissingExtraError("pillow", "images") from None
    try:
        with Image.open(path) as opened:
            _check_size(opened)
            upright = ImageOps.exif_transpose(opened).convert(mode)
            pixels = np.asarray(_resized(upright, how), np.uint8)
    except DataError as error:
        raise DataError(f"{path}: {error}") from error
    except Exception as error:  # Pillow's decoders raise what they like for damaged files
        raise DataError(f"{path}: cannot be read as an image: {error or type(error).__name__}") from error
    return pixels if pixels.ndim == 3 else pixels[..., None]


def _check_size(image: Image.Image) -> None:
    if image.width * image.height > LARGEST_IMAGE:
        raise DataError(f"it claims {image.width} x {image.height} pixels; expected at most {LARGEST_IMAGE:,}")


def _resized(image: Image.Image, how: Preprocessing) -> Image.Image:
    if how.size is None:
        return image
    height, width = how.size
    if how.stretch:
        return image if image.size == (width, height) else image.resize((width, height), how.filter)
    factor = how.resize / min(image.size) if how.resize else max(width / image.width, height / image.height)
    factor = max(factor, width / image.width, height / image.height)
    size = (max(round(image.width * factor), width), max(round(image.height * factor), height))
    if size[0] * size[1] > LARGEST_IMAGE:
        raise DataError(
            f"an image of {image.width} x {image.height} pixels becomes one of {size[0]} x {size[1]} before it is cut "
            f"to {width} x {height}; expected at most {LARGEST_IMAGE:,} pixels: cut it first, or leave it out"
        )
    grown = image if size == image.size else image.resize(size, how.filter)
    left, top = (grown.width - width) // 2, (grown.height - height) // 2
    return grown.crop((left, top, left + width, top + height))
