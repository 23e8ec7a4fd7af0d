"""The executors of a network by name.

`integer`, `no-vnni`, `dyadic` and `power-of-two` are the integer reference in four arithmetics; `default`, `fused`,
`unfused`, `plain` and `precise` settings of ONNX Runtime; `qonnx` is qir's executor of QONNX; `torch` its torch
interpreter. A network with fake-quant nodes is put in the form of codes where an executor asks for it. `simulation`
reads the quantizers of a file in whatever form they stand and computes on integers where that is possible, else in
numpy (in torch where quantizers lie inside If, Loop or Scan).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal

from qir.backends.execution.executor import Executor, OrtExecutor, Run
from qir.backends.execution.interpreter import Interpreter, quantizers_inside
from qir.backends.integer.reference import IntegerReference
from qir.backends.qonnx.reference import QonnxReference
from qir.errors import QirError
from qir.module import Module
from qir.ops import op_of
from qir.ops.families.qonnx import QONNX_DOMAINS
from qir.passes.infrastructure.contract import AnalysisCache, PassContext
from qir.passes.infrastructure.manager import PassManager
from qir.passes.lowering.legalize import Legalize
from qir.passes.lowering.lower_qcdq import LowerQcdq
from qir.passes.lowering.profiles.profiles import find_profile
from qir.passes.parity.layers import codes_shown, expose_codes
from qir.passes.simplify.upgrade_opset import UpgradeOpset
from qir.support.json_text import parse_json
from qir.tensor import Array

SATURATING = "no-vnni"
"""The integer reference with the sums of x86 CPUs without VNNI."""

SESSIONS: dict[str, dict[str, Any]] = {
    "default": {"optimization": "all", "reduced_accuracy": True},
    "fused": {"optimization": "all"},
    "unfused": {"optimization": "all", "disable_qdq_fusion": True},
    "plain": {"optimization": "disable"},
    "precise": {"optimization": "all", "precise": True},
}
"""Settings of ONNX Runtime, by name: `default` is what a session without options does; in `fused` products with weights
in blocks read float rows, where they fuse at all."""

INTEGERS: dict[str, dict[str, Any]] = {
    "integer": {},
    SATURATING: {"saturating": True},
    "dyadic": {"requantization": "dyadic"},
    "power-of-two": {"requantization": "power-of-two"},
}
"""Arithmetics of the integer reference, by name."""

EXECUTORS = (*INTEGERS, *SESSIONS, "qonnx", "torch", "simulation")
"""Names of all executors."""


def executor(name: str, module: Module, *, codes: bool = False) -> Executor:
    """Return an executor of a network.

    Args:
        name: one of `EXECUTORS`.
        module: the network.
        codes: let ONNX Runtime and torch show the codes of an exported network too.

    Raises:
        QirError: the name is unknown, or the executor does not take the network.
    """
    if name in INTEGERS:
        return IntegerReference(coded(module), **INTEGERS[name])
    if name in SESSIONS:
        form = coded(module)
        shown = codes_shown(form) if codes else {}
        return OrtExecutor(expose_codes(form) if shown else form, codes=shown, **SESSIONS[name])
    if name == "qonnx":
        return QonnxReference(module)
    if name == "torch":
        from qir.backends.torch.executor import TorchExecutor

        shown = codes_shown(module) if codes and shows_codes(name, module) else {}
        return TorchExecutor(expose_codes(module) if shown else module, codes=shown)
    if name != "simulation":
        raise QirError(f"executor {name!r} is unknown; expected one of {', '.join(EXECUTORS)}")
    from qir.passes.raising import raise_quantized

    return ReferenceNetwork(raise_quantized(module.clone()))


def shows_codes(name: str, module: Module) -> bool:
    """Return whether an executor shows the codes of a network; torch simulates fake-quant nodes without any."""
    return name in INTEGERS or name in SESSIONS or (name == "torch" and not module.graph.fake_quants())


def executor_of(module: Module) -> Executor:
    """Return what runs an exported file, at the session options that it is made for."""
    return executor(own_engine(module), module)


Kind = Literal["integer reference", "simulation"]


class ReferenceNetwork:
    """A network with fake-quant nodes, executed on integers, or simulated where that is not possible.

    Attributes:
        kind: what ran last: `integer reference` or `simulation`.
    """

    def __init__(self, module: Module) -> None:
        self._left = _references(module)
        self.kind: Kind
        self.kind, self._current = next(self._left)

    def run(self, feed: Mapping[str, Array], /) -> Run:
        """Return one batch; what computed the last one computes this one too, as long as it can."""
        while self.kind != "simulation":
            try:
                return self._current.run(feed)
            except QirError:  # sums beyond int32
                self.kind, self._current = next(self._left)
        return self._current.run(feed)


def _references(module: Module) -> Iterator[tuple[Kind, Executor]]:
    for form in code_forms(module):
        if any(op_of(node).is_quantize for node in form.graph):
            yield "integer reference", IntegerReference(form)
    yield "simulation", executor("torch", module) if quantizers_inside(module) else _Interpreted(module)


class _Interpreted:
    """What numpy and ONNX Runtime compute of a network with fake-quant nodes, as an executor."""

    def __init__(self, module: Module) -> None:
        self._network = Interpreter(module)

    def run(self, feed: Mapping[str, Array], /) -> Run:
        """Return one batch; raises `DataError` where an input is missing."""
        graph, found = self._network.graph, self._network.run(feed)
        named = zip(graph.output_names, graph.outputs, strict=True)
        return Run({name: found[value] for name, value in named if value is not None})


def code_forms(module: Module, analyses: AnalysisCache | None = None) -> Iterator[Module]:
    """Yield copies of a network with fake-quant nodes whose codes lie in 8-bit containers, and in 16-bit ones.

    Args:
        module: the network.
        analyses: what is known of it; None computes it afresh.
    """
    analyses = AnalysisCache() if analyses is None else analyses
    for name in ("qcdq", "qdq-16"):
        copy, context = module.clone(), PassContext(analyses=analyses)
        opset = find_profile(name).opset
        upgrade = [UpgradeOpset(opset)] if module.opsets.get("", 0) < opset else []
        try:
            PassManager([Legalize(name)], reproducers=False).run(module, context)
            PassManager([*upgrade, LowerQcdq()], reproducers=False).run(copy, context)
        except QirError:  # a width that the profile does not hold
            continue
        yield copy


def own_engine(module: Module) -> str:
    """Return the executor that a file is made for: `qonnx`, or the setting of ONNX Runtime that its metadata name."""
    return "qonnx" if holds_qonnx(module) else default_engine(module)


def default_engine(module: Module) -> str:
    """Return the setting of ONNX Runtime that a file is made for, as its metadata name it."""
    try:
        session = parse_json(module.metadata.get("qir.session", "{}"))
        return "unfused" if session.get("session.disable_quant_qdq") == "1" else "fused"
    except (ValueError, AttributeError):  # written by another tool
        return "fused"


def holds_qonnx(module: Module) -> bool:
    """Return whether a network has quantizers of QONNX, which ONNX Runtime does not know."""
    return any(node.domain in QONNX_DOMAINS for node in module.graph)


def coded(module: Module) -> Module:
    """Return the form of codes of a network with fake-quant nodes; any other network as it stands.

    Raises:
        QirError: no profile of codes holds the network's quantizers.
    """
    if not module.graph.fake_quants():
        return module
    found = next(code_forms(module), None)
    if found is None:
        raise QirError("no profile of codes holds the network's quantizers: execute it with `torch` or `simulation`")
    return found
