"""Profiles and fused kernels as the tables of `docs/guides/export.md`: `python tools/documents/profiles.py`."""

from __future__ import annotations

from qir.passes.lowering.profiles.fused_kernels import FusedKernel, fused_kernels
from qir.passes.lowering.profiles.profiles import Profile, profiles

_EMULATIONS = {
    "levels": "levels",
    "tables": "tables",
    "channel-widths": "widths per channel",
    "mid-rise": "odd codes",
    "blocks": "blocks",
}


def table() -> str:
    """Every export profile, one row each, as Markdown."""
    rows = [
        "| profile | what it writes | opset | weights | activations | runs in | emulates, marked |",
        "|---|---|---|---|---|---|---|",
    ]
    return "\n".join([*rows, *map(_row, profiles())]) + "\n"


def _row(profile: Profile) -> str:
    emulated = [_EMULATIONS[kind] for kind in profile.emulates]
    if profile.zero_points == "clipped":
        emulated.append("zero points")
    cells = [
        f"`{profile.name}`",
        profile.description,
        str(profile.opset),
        ", ".join(profile.weights),
        ", ".join(profile.activations) or "float",
        {"onnxruntime": "ONNX Runtime", "qir": "qonnx, qir"}[profile.runs_in],
        "everything" if profile.simulated and profile.weights == ("float32",) else ", ".join(emulated),
    ]
    return "| " + " | ".join(cells) + " |"


_FORMS = {
    "own-scale": "biases are written on the grid of the sums",
    "uncounted": "written without ceil_mode or without counting; else kept apart",
    "apart": "kept apart",
}


def kernel_table() -> str:
    """Every fused kernel of ONNX Runtime, one row each, as Markdown."""
    rows = [
        "| operator | becomes | takes | where it deviates from ONNX (versions seen) → what files have |",
        "|---|---|---|---|",
    ]
    return "\n".join([*rows, *map(_kernel_row, fused_kernels().values())]) + "\n"


def _kernel_row(kernel: FusedKernel) -> str:
    deviations = []
    for found in kernel.deviations:
        given = [f"{name} {', '.join(map(str, values))}" for name, values in found.given.items()]
        given += [f"{name} other than {value}" for name, value in found.other_than.items()]
        condition = f"{' and '.join(given)}: " if given else ""
        deviations.append(f"{condition}{found.found} ({found.versions}) → {_FORMS[found.form]}")
    cells = [kernel.op, kernel.kernel, kernel.accepts, "; ".join(deviations)]
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    """Print the tables."""
    print(table(), kernel_table(), sep="\n", end="")


if __name__ == "__main__":
    main()
