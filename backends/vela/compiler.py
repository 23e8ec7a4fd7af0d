"""Running Arm's compiler Vela (package `ethos-u-vela`) and reading its cycles by layer."""

from __future__ import annotations

import csv
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from qir.errors import MissingExtraError, TargetError

ENVIRONMENT = "QIR_VELA"
"""Environment variable with the path of the command `vela`, for one in another environment."""

_SECONDS = 600


@dataclass(frozen=True, slots=True)
class VelaLayer:
    """One operation of the compiled network.

    Attributes:
        name: name of the tensor that it computes.
        operator: TensorFlow Lite operator that it came from.
        cycles: the slower of arithmetic and each memory.
        npu_cycles: of the arithmetic.
        memory_cycles: cycles on each memory that it uses.
        macs: multiply-accumulates.
    """

    name: str
    operator: str
    cycles: float
    npu_cycles: float
    memory_cycles: Mapping[str, float]
    macs: float


def vela_command() -> Path:
    """Return the command `vela`: the environment's `QIR_VELA`, else next to this interpreter, else on the path.

    Raises:
        MissingExtraError: there is none.
    """
    given = os.environ.get(ENVIRONMENT)
    neighbour = shutil.which("vela", path=str(Path(sys.executable).parent))
    found = shutil.which(given) if given else neighbour or shutil.which("vela")
    if found is None:
        raise MissingExtraError("ethos-u-vela", "vela")
    return Path(found)


def compile_network(network: bytes, accelerator: str, system_config: str, memory_mode: str) -> list[VelaLayer]:
    """Compile a TensorFlow Lite network for an Ethos-U.

    Args:
        network: the file.
        accelerator: for example `ethos-u55-128`.
        system_config: section of Vela's `Arm/vela.ini`, for example `Ethos_U55_High_End_Embedded`.
        memory_mode: section of the same file, for example `Shared_Sram`.

    Returns:
        Operations on the accelerator in order; operations that fall back to the CPU have no cycles and are left out.

    Raises:
        MissingExtraError: Vela is not installed.
        TargetError: Vela refuses the network; holds the last line that it printed.
    """
    command = vela_command()
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "network.tflite"
        source.write_bytes(network)
        arguments = {
            "--accelerator-config": accelerator,
            "--config": "Arm/vela.ini",
            "--system-config": system_config,
            "--memory-mode": memory_mode,
            "--output-dir": folder,
        }
        flat = [part for pair in arguments.items() for part in pair]
        try:
            done = subprocess.run(  # noqa: S603 - the user's own compiler
                [str(command), str(source), *flat, "--verbose-performance"],
                capture_output=True,
                text=True,
                check=False,
                timeout=_SECONDS,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise TargetError(f"vela {command}: cannot be run: {error}") from error
        report = next(iter(Path(folder).glob("*_per-layer.csv")), None)
        if done.returncode or report is None:
            said = (done.stderr.strip() or done.stdout.strip() or "nothing").splitlines()[-1]
            raise TargetError(
                f"vela refuses the network for {accelerator}: {said}: an operator or its sizes are beyond the "
                "accelerator (`vela --supported-ops-report`)"
            )
        return read_report(report)


def read_report(path: Path) -> list[VelaLayer]:
    """Read Vela's `_per-layer.csv`.

    Raises:
        TargetError: a column is missing: another version of Vela.
    """
    with path.open(newline="", encoding="utf-8") as lines:
        rows = list(csv.DictReader(lines))
    try:
        return [_layer(row) for row in rows]
    except (KeyError, ValueError, TypeError) as error:
        raise TargetError(f"vela's report {path.name}: cannot be read: {error}; expected that of version 5") from error


def _layer(row: Mapping[str, str]) -> VelaLayer:
    memories = {key.removesuffix(" AC").lower(): float(value) for key, value in row.items() if key.endswith(" AC")}
    operator = next(iter(row.values()))
    return VelaLayer(
        row["Name"],
        operator,
        float(row["Op Cycles"]),
        float(row["NPU"]),
        memories,
        float(row["MAC Count"]),
    )
