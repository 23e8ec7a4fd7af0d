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
from qir.passes.infrastructure.contract import Pass

_PASSES = {
    "absorb-bias": "correction.absorb_bias:AbsorbBias",
    "adaround": "correction.adaround:AdaRound",
    "apply-encodings": "raising.encodings:ApplyEncodings",
    "apply-policy": "constraints.policies:ApplyPolicy",
    "calibrate": "calibration.calibrate:Calibrate",
    "canonicalize": "simplify.canonicalize:Canonicalize",
    "check-finn": "lowering.qonnx.check_finn:CheckFinn",
    "correct-bias": "correction.correct:CorrectBias",
    "correct-channels": "correction.correct:CorrectChannels",
    "distill-data": "calibration.distill_data:DistillData",
    "eliminate-common-subexpressions": "simplify.eliminate.common_subexpressions:EliminateCommonSubexpressions",
    "eliminate-dead-code": "simplify.eliminate.dead_code:EliminateDeadCode",
    "eliminate-identities": "simplify.eliminate.identities:EliminateIdentities",
    "equalize-activations": "correction.equalize_activations:EqualizeActivations",
    "equalize-weights": "correction.equalize_weights:EqualizeWeights",
    "even-zero-points": "correction.even_zero_points:EvenZeroPoints",
    "fit-bias": "correction.fit_bias:FitBias",
    "fold-batchnorm": "simplify.fold.batchnorm:FoldBatchNorm",
    "fold-constants": "simplify.fold.constants:FoldConstants",
    "freeze-inputs": "simplify.freeze_inputs:FreezeInputs",
    "infer-types": "simplify.infer_types:InferTypes",
    "inline-branches": "simplify.inline.branches:InlineBranches",
    "inline-functions": "simplify.inline.functions:InlineFunctions",
    "insert-fake-quant": "insertion.insert_fake_quant:InsertFakeQuant",
    "legalize": "lowering.legalize:Legalize",
    "lower-encodings": "lowering.lower_encodings:LowerEncodings",
    "lower-float": "lowering.lower_float:LowerFloat",
    "lower-qcdq": "lowering.lower_qcdq:LowerQcdq",
    "lower-qoperator": "lowering.lower_qoperator:LowerQoperator",
    "lower-qonnx": "lowering.qonnx.lower_qonnx:LowerQonnx",
    "lower-thresholds": "lowering.qonnx.lower_thresholds:LowerThresholds",
    "pack-weights": "lowering.pack_weights:PackWeights",
    "name-nodes": "simplify.name_nodes:NameNodes",
    "power-of-two-scales": "correction.power_of_two_scales:PowerOfTwoScales",
    "propagate-constraints": "constraints.propagate_constraints:PropagateConstraints",
    "raise-quantized": "raising:RaiseQuantized",
    "reduce-range": "lowering.saturation.reduce_range:ReduceRange",
    "repeat": "infrastructure.contract:Repeat",
    "symmetric-activations": "correction.symmetric_activations:SymmetricActivations",
    "upgrade-opset": "simplify.upgrade_opset:UpgradeOpset",
    "widen-floats": "simplify.widen_floats:WidenFloats",
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
        raise PassError(f"pass {name!r}: {found!r} is not a subclass of qir.passes.Pass")
    return found
