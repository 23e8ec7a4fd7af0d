"""`python -m qir.passes.lowering.profile_table` prints the table of `docs/export.md`."""

from __future__ import annotations

from qir.passes.lowering.profiles import Profile, profiles

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
        ", ".join(profile.activations),
        {"onnxruntime": "ONNX Runtime", "qir": "qonnx, qir"}[profile.runs_in],
        "everything" if profile.simulated and profile.weights == ("float32",) else ", ".join(emulated),
    ]
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    """Print the table."""
    print(table(), end="")


if __name__ == "__main__":
    main()
