"""Graph to graph rewrites, the pass manager and its instruments, export.

Names are handed out on first use. A pass registers itself by a line in `qir.passes.registry` (or, in another
package, by an entry point of the group `qir.passes`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from qir.lazy import names_of

if __name__ != "qir.passes":
    raise ImportError(f"import this package as qir.passes, not as {__name__}")

if TYPE_CHECKING:
    from qir.passes.exporting import export as export
    from qir.passes.instruments import ChangeCounts as ChangeCounts
    from qir.passes.instruments import DumpIR as DumpIR
    from qir.passes.instruments import Instrument as Instrument
    from qir.passes.instruments import PrintAfter as PrintAfter
    from qir.passes.instruments import Timing as Timing
    from qir.passes.instruments import VerifyEach as VerifyEach
    from qir.passes.manager import Analysis as Analysis
    from qir.passes.manager import Pass as Pass
    from qir.passes.manager import PassContext as PassContext
    from qir.passes.manager import PassManager as PassManager
    from qir.passes.manager import Repeat as Repeat
    from qir.passes.pipeline import parse_pipeline as parse_pipeline
    from qir.passes.pipeline import pipeline_text as pipeline_text
    from qir.passes.policies import apply_policy as apply_policy
    from qir.passes.propagate_constraints import bit_constraints as bit_constraints
    from qir.passes.raising import raise_quantized as raise_quantized
    from qir.passes.registry import available_passes as available_passes
    from qir.passes.registry import find_pass as find_pass
    from qir.passes.reproducer import replay as replay
    from qir.passes.testing import check_pass as check_pass

_HOME = {
    "Analysis": "manager",
    "ChangeCounts": "instruments",
    "DumpIR": "instruments",
    "Instrument": "instruments",
    "Pass": "manager",
    "PassContext": "manager",
    "PassManager": "manager",
    "PrintAfter": "instruments",
    "Repeat": "manager",
    "Timing": "instruments",
    "VerifyEach": "instruments",
    "available_passes": "registry",
    "check_pass": "testing",
    "apply_policy": "policies",
    "bit_constraints": "propagate_constraints",
    "export": "exporting",
    "find_pass": "registry",
    "parse_pipeline": "pipeline",
    "pipeline_text": "pipeline",
    "raise_quantized": "raising",
    "replay": "reproducer",
}

__all__ = sorted(_HOME)

__getattr__, __dir__ = names_of(__name__, _HOME)
