"""Names of passes and where they live.

A pass of qir is one line here; a pass of another package is an entry point of the group `qir.passes`:

    [project.entry-points."qir.passes"]
    my-pass = "my_package.my_module:MyPass"
"""

from __future__ import annotations

import importlib
from difflib import get_close_matches
from functools import cache
from importlib.metadata import EntryPoint, entry_points

from qir.errors import PassError
from qir.passes.manager import Pass

_PASSES = {
    "absorb-bias": "absorb_bias:AbsorbBias",
    "adaround": "adaround:AdaRound",
    "apply-encodings": "raising.encodings:ApplyEncodings",
    "apply-policy": "policies:ApplyPolicy",
    "calibrate": "calibrate:Calibrate",
    "canonicalize": "canonicalize:Canonicalize",
    "check-finn": "lowering.check_finn:CheckFinn",
    "correct-bias": "correct:CorrectBias",
    "correct-channels": "correct:CorrectChannels",
    "distill-data": "distill_data:DistillData",
    "eliminate-common-subexpressions": "eliminate_common_subexpressions:EliminateCommonSubexpressions",
    "eliminate-dead-code": "eliminate_dead_code:EliminateDeadCode",
    "eliminate-identities": "eliminate_identities:EliminateIdentities",
    "equalize-activations": "equalize_activations:EqualizeActivations",
    "equalize-weights": "equalize_weights:EqualizeWeights",
    "even-zero-points": "even_zero_points:EvenZeroPoints",
    "fit-bias": "fit_bias:FitBias",
    "fold-batchnorm": "fold_batchnorm:FoldBatchNorm",
    "fold-constants": "fold_constants:FoldConstants",
    "freeze-inputs": "freeze_inputs:FreezeInputs",
    "infer-types": "infer_types:InferTypes",
    "inline-branches": "inline_branches:InlineBranches",
    "inline-functions": "inline_functions:InlineFunctions",
    "insert-fake-quant": "insert_fake_quant:InsertFakeQuant",
    "legalize": "lowering.legalize:Legalize",
    "lower-encodings": "lowering.lower_encodings:LowerEncodings",
    "lower-float": "lowering.lower_float:LowerFloat",
    "lower-qcdq": "lowering.lower_qcdq:LowerQcdq",
    "lower-qoperator": "lowering.lower_qoperator:LowerQoperator",
    "lower-qonnx": "lowering.lower_qonnx:LowerQonnx",
    "lower-thresholds": "lowering.lower_thresholds:LowerThresholds",
    "pack-weights": "lowering.pack_weights:PackWeights",
    "name-nodes": "name_nodes:NameNodes",
    "power-of-two-scales": "power_of_two_scales:PowerOfTwoScales",
    "propagate-constraints": "propagate_constraints:PropagateConstraints",
    "raise-quantized": "raising:RaiseQuantized",
    "reduce-range": "reduce_range:ReduceRange",
    "repeat": "manager:Repeat",
    "symmetric-activations": "symmetric_activations:SymmetricActivations",
    "upgrade-opset": "upgrade_opset:UpgradeOpset",
    "widen-floats": "widen_floats:WidenFloats",
}


@cache
def _entry_points() -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group="qir.passes")}


def available_passes() -> tuple[str, ...]:
    """Names of all passes that can be used in a pipeline, sorted."""
    return tuple(sorted({*_PASSES, *_entry_points()}))


def find_pass(name: str) -> type[Pass]:
    """The class of the pass with this name.

    Raises:
        PassError: there is none, or an entry point does not hand out a subclass of `Pass`.
    """
    if name in _PASSES:
        module, _, cls = _PASSES[name].partition(":")
        found = getattr(importlib.import_module(f"qir.passes.{module}"), cls)
    elif name in _entry_points():
        found = _entry_points()[name].load()
    else:
        near = get_close_matches(name, available_passes(), n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"expected one of {', '.join(available_passes())}"
        raise PassError(f"no pass is called {name!r}: {hint}")
    if not (isinstance(found, type) and issubclass(found, Pass)):
        raise PassError(f"pass {name!r}: {found!r} is no subclass of qir.passes.Pass")
    return found
