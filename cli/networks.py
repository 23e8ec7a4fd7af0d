"""Networks that the shell is given: files, the names of those that come with qir, and sizes that they leave open."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from qir.errors import ModelFileError, QirError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qir.module import Module


def network_path(text: str) -> Path:
    """Return the file of a network: a path, or the name of a network that comes with qir.

    Raises:
        ModelFileError: neither a file nor such a name; the message holds the nearest name.
    """
    path = Path(text)
    if path.suffix or len(path.parts) > 1 or path.exists():
        return path
    from qir.models.shipped import names
    from qir.models.shipped import path as shipped
    from qir.support.nearest import nearest

    if text not in names():
        raise ModelFileError(f"{text}: there is no such file, and no network of this name: {nearest(text, names())}")
    return shipped(text)


def name_of(path: Path) -> str | None:
    """Return the name under which a network comes with qir; None of any other file."""
    from qir.models.shipped import names
    from qir.models.shipped import path as shipped

    return next((name for name in names() if path == shipped(name)), None)


def network(text: str) -> Any:
    """Return the argument of a verb that takes a network; `text` says what kind."""
    return typer.Argument(
        parser=network_path, metavar="NETWORK", help=f"{text}, or the name of a shipped one.", show_default=False
    )


Shapes = Annotated[
    list[str] | None, typer.Option("--shape", help="Shape of an input, `name=1,3,224,224`; may be repeated.")
]
Batch = Annotated[int, typer.Option("--batch", help="Images, where the first dimension is unknown.", min=1)]


def load_sized(path: Path, shapes: list[str] | None, batch: int) -> Module:
    """Return a network with the sizes that `--shape` and `--batch` give it.

    Raises:
        QirError: the file cannot be read, or a shape is not of its form or does not fit.
    """
    import qir

    if batch < 1:
        raise QirError(f"--batch {batch}: expected at least 1")
    module = qir.load(path)
    set_shapes(module, shapes or [], batch)
    return module


def set_shapes(module: Module, shapes: list[str], batch: int) -> None:
    """Give inputs the shapes of `name=1,3,224,224`, and `batch` images to those that leave their number open.

    A size that had a name (a symbol) takes its number wherever the name occurs; all others are inferred anew.

    Raises:
        QirError: another form, or no such input; names the nearest.
    """
    from qir.backends.costs.layers.open_sizes import fix_sizes, taken_sizes
    from qir.support.nearest import nearest
    from qir.types import TensorType

    inputs = {value.name: value for value in module.graph.inputs}
    given: dict[str, tuple[int, ...]] = {}
    for text in shapes:
        name, _, sizes = text.partition("=")
        if name not in inputs:
            raise QirError(f"--shape {text!r}: the network has no input {name!r}: {nearest(name, inputs)}")
        kind = inputs[name].type
        given[name] = _sizes(text, sizes, kind.shape if isinstance(kind, TensorType) else None)
    fix_sizes(module, given)
    fix_sizes(module, taken_sizes(module, batch))


def _sizes(text: str, sizes: str, declared: Sequence[object] | None) -> tuple[int, ...]:
    """Return the sizes of `1,3,224,224`; as many as the input has dimensions.

    Raises:
        QirError: they are not positive numbers, or another number of them.
    """
    try:
        dims = tuple(int(size) for size in sizes.split(","))
    except ValueError as error:
        raise QirError(f"--shape {text!r}: expected name=1,3,224,224") from error
    if min(dims) < 1:
        raise QirError(f"--shape {text!r}: size {min(dims)}; expected sizes of at least 1")
    if declared is not None and len(declared) != len(dims):
        known = ",".join(map(str, declared))
        raise QirError(f"--shape {text!r}: {len(dims)} sizes; the input has {len(declared)} dimensions ({known})")
    return dims
