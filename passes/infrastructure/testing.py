"""A harness for tests of passes: `check_pass` runs one and holds its contract against the module.

def test_my_pass():
checked = check_pass(MyPass(), module)
assert checked.changed and checked.largest_error < 1e-5
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from qir.backends.execution.random_feed import random_feed
from qir.backends.execution.session import OrtSession
from qir.errors import PassError, QirError
from qir.module import Module
from qir.passes.infrastructure.contract import Pass, PassContext
from qir.tensor import Array

Arrays = Mapping[str, Array]


@dataclass(frozen=True)
class CheckedPass:
    """What `check_pass` found.

    Attributes:
        changed: what the pass returned.
        largest_error: largest difference of an output, relative to the largest magnitude in that output (or 1).
        report: what the pass told in `context.reports`, or None.
    """

    changed: bool
    largest_error: float
    report: Any = None


def check_pass(
    step: Pass,
    module: Module,
    *,
    inputs: Arrays | None = None,
    tolerance: float | None = 1e-5,
    context: PassContext | None = None,
) -> CheckedPass:
    """Run a pass on a module, in place, and hold it against the contract of `Pass`.

    The module verifies before and after; a pass that returns False wrote nothing; two runs on equal modules give the
    same text; the outputs stay the same.

    Args:
        step: the pass.
        module: the module, changed in place.
        inputs: arrays by input name; random ones when left out.
        tolerance: the largest error allowed, as in `CheckedPass.largest_error`; None does not compare outputs.
        context: objects for the pass.

    Raises:
        PassError: the pass broke its contract.
        VerifyError: the module does not verify.
    """
    from qir.text.printer import print_module
    from qir.verifier import verify

    context = context or PassContext()
    verify(module)
    twin = module.clone()
    if tolerance is not None:
        inputs = random_feed(module, samples=2, unknown=2) if inputs is None else inputs
        expected = run_onnxruntime(module, inputs)
    versions = (module.version, module.policy_version)
    changed = context.run(step, module)
    report = context.reports.get(step.name)
    if not changed and (module.version, module.policy_version) != versions:
        raise PassError(f"pass {step} returned False and wrote to the module")
    verify(module)
    context.run(step, twin)
    if print_module(twin, constants="hash") != print_module(module, constants="hash"):
        raise PassError(f"pass {step} gave two different modules in two runs")
    error = 0.0 if tolerance is None else largest_error(expected, run_onnxruntime(module, inputs or {}))
    if tolerance is not None and not error <= tolerance:
        raise PassError(f"pass {step} changed the outputs by {error:.3g}, more than {tolerance:g}")
    return CheckedPass(changed, error, report)


def largest_error(expected: list[Array], found: list[Array]) -> float:
    """Return largest |found - expected| of an output over the largest |expected| in it, or over 1 when that is smaller.

    Infinite when shapes differ or one has a NaN or an infinity where the other has none.
    """
    worst = 0.0
    for a, b in zip(expected, found, strict=True):
        if a.shape != b.shape:
            return float("inf")
        if a.dtype.kind not in "fiub" or a.size == 0:
            worst = max(worst, 0.0 if np.array_equal(a, b) else float("inf"))
            continue
        a, b = a.astype(np.float64), b.astype(np.float64)
        same = (a == b) | (np.isnan(a) & np.isnan(b))
        with np.errstate(invalid="ignore"):
            difference = np.where(same, 0.0, np.abs(a - b))
        if not np.isfinite(difference).all():
            return float("inf")
        scale = max(1.0, float(np.abs(a[np.isfinite(a)]).max(initial=0.0)))
        worst = max(worst, float(difference.max()) / scale)
    return worst


def run_onnxruntime(module: Module, inputs: Arrays) -> list[Array]:
    """Return the outputs of a module in ONNX Runtime, one thread, without graph optimizations.

    Raises:
        PassError: ONNX Runtime does not take the module.
    """
    try:
        return list(OrtSession(module, optimization="disable").run(inputs).values())
    except QirError as error:
        raise PassError(f"ONNX Runtime does not run the module: {error}") from error
