"""What two quantizations of a network decide differently."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from qir.errors import SearchError
from qir.fake_quant import policy_of
from qir.policy import Bits, Policy
from qir.search.report.quantized import Quantized
from qir.search.report.rows import bits_text


@dataclass(frozen=True)
class Difference:
    """A quantizer with other bits; None where a network does not have it."""

    quantizer: str
    first: Bits | None
    second: Bits | None


@dataclass(frozen=True)
class Differences:
    """What differs between two quantizations.

    Attributes:
        differing: quantizers with other bits, those that one network lacks included.
        equal: how many quantizers have the same bits in both.
        figures: name of a figure → the first network's and the second's.
    """

    differing: tuple[Difference, ...]
    equal: int
    figures: Mapping[str, tuple[str, str]]


def differences(first: Path, second: Path) -> Differences:
    """Hold two quantizations against each other.

    Args:
        first: an exported file, a calibrated network, or what `Quantized.save` wrote.
        second: likewise.

    Raises:
        QirError: a file cannot be read, or holds no quantized network.
    """
    (ours, our_figures), (theirs, their_figures) = _decided(first), _decided(second)
    names = [*ours, *(name for name in theirs if name not in ours)]
    found = tuple(
        Difference(name, ours.get(name), theirs.get(name)) for name in names if ours.get(name) != theirs.get(name)
    )
    figures = {
        name: (our_figures.get(name, ""), their_figures.get(name, ""))
        for name in dict.fromkeys((*our_figures, *their_figures))
    }
    return Differences(found, len(names) - len(found), figures)


def _decided(path: Path) -> tuple[Policy, dict[str, str]]:
    """Return the bits of every quantizer, and the figures that the file knows."""
    if path.suffix == ".json":
        done = Quantized.load(path)
        table = done.table()
        return done.policy, {name: cell for name, cell in zip(table[0], table[-1], strict=True) if name != "network"}
    from qir.onnx_io import load
    from qir.passes import PassContext
    from qir.passes.raising import RaiseQuantized
    from qir.passes.raising.encodings import apply_encodings_next_to

    module = load(path)
    if not module.graph.fake_quants() and not apply_encodings_next_to(module, path):
        PassContext().run(RaiseQuantized(()), module)
    policy = policy_of(module.graph)
    if not policy:
        raise SearchError(f"{path}: holds no quantized network: give an exported file, or a saved quantization (.json)")
    return policy, {"bits": bits_text(policy), "bytes on disk": f"{path.stat().st_size:,}"}
