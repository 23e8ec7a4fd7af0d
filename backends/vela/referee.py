"""Vela's cycles next to a cost model's, layer by layer, and how far apart they are after a fit by op."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from qir.backends.costs.tables.table import CostTable
from qir.backends.costs.target import TargetLike, as_target
from qir.backends.vela import operators as operators  # enters the lowerings of ops
from qir.backends.vela.compiler import VelaLayer, compile_network
from qir.backends.vela.network import Network
from qir.errors import TargetError
from qir.module import Module
from qir.policy import Bits

OTHER = "other"
"""Op of what Vela computes and the table does not list (padding, transposition)."""


@dataclass(frozen=True, slots=True)
class Compared:
    """One node in both accounts.

    Attributes:
        node: layer name.
        op: op type.
        cycles: of the cost model.
        referee_cycles: of the compiler; 0 where it fuses the node into another.
        is_layer: whether the node computes multiply-accumulates with a weight.
    """

    node: str
    op: str
    cycles: float
    referee_cycles: float
    is_layer: bool


@dataclass(frozen=True, slots=True)
class OpFit:
    """How an op's cycles become the referee's: cycles / efficiency + constant.

    Attributes:
        efficiency: of the modelled rate; infinity where the referee takes no time.
        constant: cycles a node.
    """

    efficiency: float
    constant: float


def referee(module: Module, target: TargetLike, table: CostTable, policy: Mapping[str, Bits]) -> list[Compared]:
    """Compile a network's int8 form for a target's referee and set its cycles next to the table's.

    Args:
        module: the network of the table; constants and BatchNormalization folded, weights at the policy's widths.
        target: says what the compiler compiles for: a target, the name of one, or its file.
        table: the cost model's account.
        policy: bits by quantizer, for the table.

    Raises:
        TargetError: the target has no referee, or the network has no int8 form.
        MissingExtraError: the compiler is not installed.
    """
    target = as_target(target)
    spec = target.referee
    if spec is None:
        raise TargetError(
            f"target {target.name!r} has no referee: choose one whose file has the key 'referee' (ethos-u55-128-like)"
        )
    compiled = compile_network(tflite_bytes(module), spec.accelerator, spec.system_config, spec.memory_mode)
    return compare_layers(table, policy, compiled)


def compare_layers(table: CostTable, policy: Mapping[str, Bits], compiled: Sequence[VelaLayer]) -> list[Compared]:
    """Join by layer name; an operation of the compiler's own counts for the layer whose name its name begins with."""
    rows = table.rows(policy)
    names = sorted({row.node for row in rows}, key=len, reverse=True)
    theirs: dict[str, float] = {}
    for layer in compiled:
        owner = next((name for name in names if layer.name.startswith(name)), layer.name)
        theirs[owner] = theirs.get(owner, 0.0) + layer.cycles
    found = [
        Compared(row.node, row.op, row.cycles, theirs.pop(row.node, 0.0), row.weight_bits is not None) for row in rows
    ]
    return found + [Compared(name, OTHER, 0.0, cycles, is_layer=False) for name, cycles in theirs.items() if cycles]


def rank_correlation(rows: Sequence[Compared]) -> float:
    """Spearman's rank correlation over the layers that compute multiply-accumulates."""
    from scipy.stats import spearmanr

    layers = [row for row in rows if row.is_layer]
    return float(spearmanr([row.cycles for row in layers], [row.referee_cycles for row in layers]).statistic)


def fit_ops(rows: Sequence[Compared]) -> dict[str, OpFit]:
    """Return one efficiency and one constant per op: least squares of relative errors, neither negative.

    An op whose nodes all cost the same has an efficiency only.
    """
    groups: dict[str, list[Compared]] = {}
    for row in rows:
        groups.setdefault(row.op, []).append(row)
    return {op: _fit(group) for op, group in groups.items()}


def _fit(rows: Sequence[Compared]) -> OpFit:
    from scipy.optimize import nnls

    ours = np.array([row.cycles for row in rows], np.float64)
    theirs = np.array([row.referee_cycles for row in rows], np.float64)
    weights = 1 / np.maximum(theirs, 1.0)
    if len(np.unique(ours)) > 1:
        system = np.stack([ours * weights, weights], axis=1)
        slope, constant = nnls(system, theirs * weights)[0]
    else:
        slope, constant = theirs.sum() / max(ours.sum(), 1.0), 0.0
    return OpFit(float(1 / slope) if slope > 0 else float("inf"), float(constant))


def predicted(rows: Sequence[Compared], fits: Mapping[str, OpFit]) -> float:
    """Return cycles of a network by the fits of another one; an op that they do not know counts as the model has it."""
    unknown = OpFit(1.0, 0.0)
    return sum(row.cycles / fits.get(row.op, unknown).efficiency + fits.get(row.op, unknown).constant for row in rows)


def tflite_bytes(module: Module) -> bytes:
    """Write the int8 form of a network, batch 1, as a TensorFlow Lite file.

    Weights take the codes of their quantizers at the chosen widths (else 8 bits per channel); activations are stored in
    8 bits over the calibrated ranges; where a range is not known a fixed one is taken.

    Args:
        module: constants and BatchNormalization folded; shapes known.

    Raises:
        TargetError: an op has no TensorFlow Lite form here, or a shape is unknown.
        MissingExtraError: the package `flatbuffers` is not installed.
    """
    return Network(module).made.to_bytes()
