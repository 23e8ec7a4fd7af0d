"""Graph to graph rewrites, the pass manager and its instruments, export.

Names are handed out on first use. A pass registers itself by a line in `qir.passes.infrastructure.registry` (or, in
another package, by an entry point of the group `qir.passes`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from qir.support.lazy import names_of

if __name__ != "qir.passes":
    raise ImportError(f"import this package as qir.passes, not as {__name__}")

if TYPE_CHECKING:
    from qir.passes.constraints.policies import apply_policy as apply_policy
    from qir.passes.constraints.propagate_constraints import bit_constraints as bit_constraints
    from qir.passes.exporting.export import export as export
    from qir.passes.infrastructure.contract import Analysis as Analysis
    from qir.passes.infrastructure.contract import Pass as Pass
    from qir.passes.infrastructure.contract import PassContext as PassContext
    from qir.passes.infrastructure.contract import Repeat as Repeat
    from qir.passes.infrastructure.instruments import ChangeCounts as ChangeCounts
    from qir.passes.infrastructure.instruments import DumpIR as DumpIR
    from qir.passes.infrastructure.instruments import Instrument as Instrument
    from qir.passes.infrastructure.instruments import PrintAfter as PrintAfter
    from qir.passes.infrastructure.instruments import Timing as Timing
    from qir.passes.infrastructure.instruments import VerifyEach as VerifyEach
    from qir.passes.infrastructure.manager import PassManager as PassManager
    from qir.passes.infrastructure.pipeline import parse_pipeline as parse_pipeline
    from qir.passes.infrastructure.pipeline import pipeline_text as pipeline_text
    from qir.passes.infrastructure.registry import available_passes as available_passes
    from qir.passes.infrastructure.registry import find_pass as find_pass
    from qir.passes.infrastructure.replay import replay as replay
    from qir.passes.infrastructure.run_passes import run_passes as run_passes
    from qir.passes.infrastructure.testing import check_pass as check_pass
    from qir.passes.parity.evaluate import evaluate as evaluate
    from qir.passes.raising import raise_quantized as raise_quantized

_HOME = {
    "Analysis": "infrastructure.contract",
    "ChangeCounts": "infrastructure.instruments",
    "DumpIR": "infrastructure.instruments",
    "Instrument": "infrastructure.instruments",
    "Pass": "infrastructure.contract",
    "PassContext": "infrastructure.contract",
    "PassManager": "infrastructure.manager",
    "PrintAfter": "infrastructure.instruments",
    "Repeat": "infrastructure.contract",
    "Timing": "infrastructure.instruments",
    "VerifyEach": "infrastructure.instruments",
    "available_passes": "infrastructure.registry",
    "check_pass": "infrastructure.testing",
    "apply_policy": "constraints.policies",
    "bit_constraints": "constraints.propagate_constraints",
    "evaluate": "parity.evaluate",
    "export": "exporting.export",
    "find_pass": "infrastructure.registry",
    "parse_pipeline": "infrastructure.pipeline",
    "pipeline_text": "infrastructure.pipeline",
    "raise_quantized": "raising",
    "replay": "infrastructure.replay",
    "run_passes": "infrastructure.run_passes",
}

__all__ = sorted(_HOME)

__getattr__, __dir__ = names_of(__name__, _HOME)
