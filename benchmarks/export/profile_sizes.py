"""Bytes of the model file in every profile that ONNX Runtime runs: the table of `docs/guides/export.md`.

    python benchmarks profile-sizes

The shipped networks, calibrated for the target `npu-148`; every decision at 8, 4 and 2 bits (2-bit activations go with
1-bit weights there). Each file is checked and compared as `export` does; codes off the reference are printed last.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import qir.models
from qir.backends import load_target
from qir.passes import apply_policy, export
from qir.passes.lowering.profiles.profiles import find_profile, profile_names
from qir.search import load_network, prepare

NETWORKS = {"lenet": "LeNet", "resnet-20": "ResNet-20"}
WIDTHS = (8, 4, 2)


def sizes(network: str, profiles: list[str], folder: Path) -> tuple[dict[tuple[str, int], int], int]:
    """Bytes by (profile, bits), and how many codes of all files together are off the reference."""
    images = qir.models.fashion_mnist("calibration").images
    module = load_network(qir.models.path(network))
    constraints = prepare(module, load_target("npu-148"), images[:128], input_widths="all")
    found, off = {}, 0
    for bits in WIDTHS:
        apply_policy(module, constraints.complete(dict.fromkeys(constraints.decisions, bits)))
        for profile in profiles:
            report = export(module, folder / f"{network}.onnx", profile=profile, data=images[:64])
            found[profile, bits] = report.model.stat().st_size
            off += report.mismatches
    return found, off


def main() -> None:
    """Print the table."""
    profiles = [
        name for name in profile_names() if (found := find_profile(name)).runs_in == "onnxruntime" and found.activations
    ]
    with tempfile.TemporaryDirectory() as folder:
        found = {network: sizes(network, profiles, Path(folder)) for network in NETWORKS}
    print("| profile | " + " | ".join(f"{label} 8 | 4 | 2" for label in NETWORKS.values()) + " |")
    print("|---|" + "---|" * len(NETWORKS) * len(WIDTHS))
    for profile in profiles:
        cells = [f"{found[network][0][profile, bits]:,}" for network in NETWORKS for bits in WIDTHS]
        print(f"| `{profile}` | " + " | ".join(cells) + " |")
    print(f"codes off the reference: {sum(off for _, off in found.values())}")


if __name__ == "__main__":
    main()
