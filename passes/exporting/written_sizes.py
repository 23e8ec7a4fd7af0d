"""How many bytes a written network takes, and which of its weights the profile stores wider than they are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from qir.guide import LayerGuide, StoredWeightGuide, read_guide
from qir.passes.exporting.export import ExportReport
from qir.passes.lowering.profiles.profiles import Profile, find_profile, profiles
from qir.types import DType


@dataclass(frozen=True)
class WrittenSizes:
    """Sizes of a written network.

    Attributes:
        weights: bytes of the integer weights at their bits, packed as in the `.weights.bin` file.
        model: bytes of the model on disk, with its external data.
        profile: name of the profile.
        wider: bits of weights that the profile stores in more → the bits that it takes for one.
        packing: profiles that ONNX Runtime runs and that store these weights in fewer bits.
    """

    weights: int
    model: int
    profile: str
    wider: Mapping[int, int]
    packing: tuple[str, ...]

    def lines(self) -> list[str]:
        """Return the sizes in words."""
        found = [f"size: {self.weights:,} bytes of weights at their bits; {self.model:,} bytes on disk"]
        if self.wider:
            widths = ", ".join(f"{bits}-bit weights in {stored} bits" for bits, stored in sorted(self.wider.items()))
            others = f"; fewer with the profiles {', '.join(self.packing)}" if self.packing else ""
            found.append(f"profile {self.profile} stores {widths}{others}")
        return found


def written_sizes(report: ExportReport) -> WrittenSizes:
    """Return the sizes of the files of an export.

    Raises:
        QirError: the guide cannot be read.
    """
    guide, profile = read_guide(report.guide), find_profile(report.profile)
    layers: list[LayerGuide | StoredWeightGuide] = [*guide.layers, *guide.stored_weights]
    widths = {layer.weight.bits for layer in layers}
    packed = sum(layer.packed_weight.length for layer in layers if layer.packed_weight is not None)
    wider = {bits: taken for bits in widths if (taken := stored_bits(profile, bits)) > bits}
    packing = [
        other.name
        for other in profiles()
        if other.runs_in == "onnxruntime" and any(stored_bits(other, bits) < taken for bits, taken in wider.items())
    ]
    data = report.model.with_name(report.model.name + ".data")
    files = [path for path in (report.model, data) if path.exists()]
    on_disk = sum(path.stat().st_size for path in files)
    return WrittenSizes(packed, on_disk, profile.name, wider, tuple(packing))


def stored_bits(profile: Profile, bits: int) -> int:
    """Return bits that a profile takes in the file for a weight of so many bits."""
    if profile.simulated:
        return DType.FLOAT32.bits
    if "pack-weights" in profile.passes:
        return bits
    known = sorted(DType.from_label(name).bits for name in profile.weights)
    return next((wide for wide in known if wide >= bits), known[-1])
