"""The gate of an export: files that break their promise are refused, and what was proven of the others is a record."""

from __future__ import annotations

import qir
from qir.backends.execution.cpu import instruction_set
from qir.errors import ExportError
from qir.guide import ProofGuide
from qir.passes.exporting.check import WrittenComparison
from qir.passes.lowering.profiles.profiles import Profile
from qir.passes.parity.judging.comparison import SATURATION


def proof_of(found: WrittenComparison, profile: Profile, *, allow_mismatches: bool = False) -> ProofGuide:
    """Return what was proven of a written file.

    Args:
        found: how it compared.
        profile: its profile.
        allow_mismatches: record what breaks the promise instead of refusing the file.

    Raises:
        ExportError: codes differ that the profile promises; the message names the reason, the first of them, and what
            to do.
    """
    if found.refusals and not allow_mismatches:
        raise ExportError(f"profile {profile.name!r}: {found.refusals[0]}; {_remedy(found.refusals[0])}")
    own = found.engine == "qonnx"
    return ProofGuide(
        reference=found.reference,
        engine="qir" if own else f"onnxruntime {found.engine}",
        engine_version=qir.__version__ if own else _onnxruntime(),
        cpu=instruction_set(),
        samples=found.samples,
        codes=found.codes,
        mismatches=found.mismatches,
        ties=found.ties,
        clipped=found.clipped,
        allowed=list(found.refusals),
    )


def _onnxruntime() -> str:
    import onnxruntime

    return str(onnxruntime.__version__)


def _remedy(refusal: str) -> str:
    if SATURATION in refusal:
        return (
            "weights='auto' (--weights auto) or reduce_range (--reduce-range) repair it; allow_mismatches "
            "(--allow-mismatches) writes it as it is"
        )
    return "choose another profile; allow_mismatches (--allow-mismatches) writes it as it is"
