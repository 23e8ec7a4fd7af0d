"""Samples of the shell: the options about images, the same for every verb, and the line that says what was read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from qir.errors import DataError

if TYPE_CHECKING:
    from qir.module import Module
    from qir.passes.data.kinds.preprocessing import Preprocessing

_GROUP = "Images"


@dataclass(frozen=True)
class ImageOptions:
    """What the shell can be told about images, as text."""

    size: Annotated[
        str, typer.Option(help="Height x width, `224` or `224x192`; by default the network's.", rich_help_panel=_GROUP)
    ] = ""
    mean: Annotated[
        str, typer.Option(help="Subtracted, a number a channel: `0.485,0.456,0.406`.", rich_help_panel=_GROUP)
    ] = ""
    std: Annotated[str, typer.Option(help="Divided by, likewise.", rich_help_panel=_GROUP)] = ""
    range: Annotated[
        str, typer.Option(help="What pixels 0 and 255 become before that, by default `0,1`.", rich_help_panel=_GROUP)
    ] = ""
    layout: Annotated[
        str, typer.Option(help="NCHW or NHWC, where the input's shape does not tell.", rich_help_panel=_GROUP)
    ] = ""
    preprocessing: Annotated[
        Path | None,
        typer.Option(
            help="preprocessing.json, or Hugging Face's preprocessor_config.json; found in the folder of the data or "
            "next to the network.",
            rich_help_panel=_GROUP,
        ),
    ] = None

    def read(self) -> Preprocessing | None:
        """Return what the options say of images; None where none is given.

        Raises:
            DataError: a text is not of its form, or the file cannot be read.
        """
        if self == ImageOptions():
            return None
        from qir.passes.data.kinds.preprocessing import Preprocessing, preprocessing_near

        reach = _numbers("range", self.range)
        if reach and len(reach) != 2:
            raise DataError(f"--range {self.range}: expected two numbers, such as 0,255")
        options = Preprocessing(
            size=_size(self.size) if self.size else None,
            mean=_numbers("mean", self.mean),
            std=_numbers("std", self.std),
            range=(reach[0], reach[1]) if reach else None,
            layout=self.layout.upper(),
        )
        return preprocessing_near(self.preprocessing).with_options(options)


def read_and_tell(
    data: Path | None, module: Module, network: Path, images: ImageOptions, *, stderr: bool = False
) -> Any:
    """Return samples for a network, after a line that says what they were taken for.

    None and `distilled` as they are.
    """
    from qir.passes.calibration.distill_data import DISTILLED
    from qir.passes.data.reading import read_samples
    from qir.support.terminal import Terminal

    if data is None or str(data) == DISTILLED:
        return data
    samples = read_samples(data, module, preprocessing=images.read(), network=network)
    console = Terminal(soft_wrap=True, stderr=stderr)
    for line in samples.understood.lines:
        console.print(line)
    return samples


def _numbers(name: str, text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(",")) if text else ()
    except ValueError:
        raise DataError(f"--{name} {text}: expected numbers with commas between them, such as 0.5,0.5,0.5") from None


def _size(text: str) -> tuple[int, int]:
    parts = text.lower().split("x")
    if not all(part.isdecimal() for part in parts) or len(parts) not in {1, 2}:
        raise DataError(f"--size {text}: expected pixels, such as 224 or 224x192")
    return int(parts[0]), int(parts[-1])
