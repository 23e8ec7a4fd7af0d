"""Types of all values, inferred anew."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from qir.errors import VerifyError
from qir.graph import Value
from qir.module import Module
from qir.ops import infer_graph
from qir.passes.infrastructure.contract import Pass, PassContext
from qir.types import TensorType, Type
from qir.verifier import verify


@dataclass(frozen=True)
class InferTypes(Pass):
    """Infer the type of every result of the main graph from those of the inputs; symbols spread from there.

    What a file declares is kept where nothing more precise can be inferred. Where it contradicts what follows from the
    operands, that holds, and `context.reports["infer-types"]` has a line that says so.
    """

    name: ClassVar[str] = "infer-types"

    def run(self, module: Module, context: PassContext) -> bool:
        """Infer; True when a type became another one. Raises `QirError` when ONNX's inference refuses a node."""
        before = module.version
        declared = {value: value.type for node in module.graph for value in node.results}
        infer_graph(module)
        notes = context.reports.setdefault(self.name, [])
        notes += [_note(value, known) for value, known in declared.items() if _contradicts(known, value.type)]
        return module.version != before


def verify_types(module: Module) -> list[str]:
    """Verify a module as a file has it, after inferring types anew where declared ones contradict the operands.

    Returns:
        A line for every contradiction.

    Raises:
        VerifyError: the module is wrong beyond its declared types.
    """
    try:
        verify(module)
    except VerifyError as error:
        if error.rule != "result-type":
            raise
        context = PassContext()
        context.run(InferTypes(), module)
        verify(module)
        return list(context.reports[InferTypes.name])
    return []


def _contradicts(known: Type, inferred: Type) -> bool:
    """Return whether two types of tensors cannot both be right: other elements, another rank, or other sizes."""
    if not isinstance(known, TensorType) or not isinstance(inferred, TensorType):
        return False
    if known.dtype is not inferred.dtype:
        return True
    if known.shape is None or inferred.shape is None:
        return False
    if len(known.shape) != len(inferred.shape):
        return True
    pairs = zip(known.shape, inferred.shape, strict=True)
    return any(isinstance(a, int) and isinstance(b, int) and a != b for a, b in pairs)


def _note(value: Value, known: Type) -> str:
    return f"{value.name}: the file declares {known}; its operands give {value.type}, which holds"
