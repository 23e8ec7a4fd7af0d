"""The instruction set of the CPU at hand, which decides by which kernels ONNX Runtime computes 8-bit products."""

from __future__ import annotations

import platform
import re
import subprocess
from functools import cache
from pathlib import Path

_X86 = ("x86_64", "amd64", "i386", "i686")
_KNOWN = ("amx_int8", "avx_vnni_int8", "avx512_vnni", "avx_vnni", "avx512bw", "avx2", "avx", "sse4_1")
"""Features of x86 CPUs that choose kernels of 8-bit products, the newest first, as Linux names them."""


@cache
def instruction_set() -> str:
    """Machine and the features of its CPU that matter for 8-bit products, for example `x86-64 amx_int8 avx512_vnni`.

    Where the system does not tell the features, the machine alone.
    """
    machine = platform.machine().lower()
    if machine not in _X86:
        return machine or "unknown"
    return " ".join(("x86-64" if machine in _X86[:2] else "x86", *shortened(_features())))


def shortened(features: set[str]) -> tuple[str, ...]:
    """Return the features that matter: all that compute 8-bit products at once, and else the widest vectors."""
    newest = tuple(name for name in _KNOWN[:4] if name in features)
    return newest or tuple(name for name in _KNOWN[4:] if name in features)[:1]


def _features() -> set[str]:
    try:
        if platform.system() == "Darwin":
            text = subprocess.run(
                ["/usr/sbin/sysctl", "-n", "machdep.cpu.features", "machdep.cpu.leaf7_features"],
                capture_output=True,
                text=True,
                check=False,
            ).stdout
            return {name.lower().replace(".", "_") for name in text.split()}
        found = re.search(r"^flags\s*:\s*(.*)$", Path("/proc/cpuinfo").read_text(encoding="utf-8"), re.MULTILINE)
    except OSError:
        return set()
    return set(found.group(1).split()) if found else set()
