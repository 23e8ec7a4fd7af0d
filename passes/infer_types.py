"""Types of all values, inferred anew."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from qir.module import Module
from qir.ops import infer_graph
from qir.passes.manager import Pass, PassContext


@dataclass(frozen=True)
class InferTypes(Pass):
    """Infer the type of every result of the main graph from those of the inputs; symbols spread from there.

    What a file declares is kept where nothing more precise can be inferred.
    """

    name: ClassVar[str] = "infer-types"

    def run(self, module: Module, context: PassContext) -> bool:
        """Infer; True when a type became another one. Raises `QirError` when ONNX's inference refuses a node."""
        del context
        before = module.version
        infer_graph(module)
        return module.version != before
