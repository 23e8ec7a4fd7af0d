"""Passes by name, and where they live. A pass of another package is an entry point of the group `qir.passes`."""

from __future__ import annotations

from qir.errors import PassError
from qir.passes.infrastructure.contract import Pass
from qir.registry import Registry

_PLACES = {
    "absorb-bias": "correction.absorb_bias:AbsorbBias",
    "adaround": "correction.adaround:AdaRound",
    "apply-encodings": "raising.encodings:ApplyEncodings",
    "apply-policy": "constraints.policies:ApplyPolicy",
    "calibrate": "calibration.calibrate:Calibrate",
    "canonicalize": "simplify.canonicalize:Canonicalize",
    "check-finn": "lowering.qonnx.check_finn:CheckFinn",
    "correct-bias": "correction.correct:CorrectBias",
    "correct-channels": "correction.correct:CorrectChannels",
    "dequantize": "raising.dequantize:Dequantize",
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
    "lower-nbits": "lowering.nbits.lower_nbits:LowerNbits",
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
    "split-gemm": "lowering.nbits.split_gemm:SplitGemm",
    "symmetric-activations": "correction.symmetric_activations:SymmetricActivations",
    "upgrade-opset": "simplify.upgrade_opset:UpgradeOpset",
    "widen-floats": "simplify.widen_floats:WidenFloats",
}
"""Name of a pass → its module inside qir.passes, and its class."""

PASSES: Registry[type[Pass]] = Registry(
    "pass",
    "qir.passes",
    {name: f"qir.passes.{place}" for name, place in _PLACES.items()},
    accepts=lambda found: isinstance(found, type) and issubclass(found, Pass),
    expected="a subclass of qir.passes.Pass",
    error=PassError,
)


def available_passes() -> tuple[str, ...]:
    """Return names of all passes that can be used in a pipeline, sorted."""
    return tuple(sorted(PASSES))


def find_pass(name: str) -> type[Pass]:
    """Return the class of the pass with this name.

    Raises:
        PassError: there is none, or an entry point does not hand out a subclass of `Pass`.
    """
    return PASSES[name]
