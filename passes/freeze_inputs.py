"""Inputs with a default value become constants."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from qir.graph import Value
from qir.module import Module
from qir.passes.manager import Pass, PassContext

_FIRST_WITH_CONSTANTS = 4


@dataclass(frozen=True)
class FreezeInputs(Pass):
    """Turn inputs of the main graph that have a default value into constants.

    Up to ONNX's IR version 3 every weight had to be listed as an input, and ONNX Runtime never lets a caller replace
    it: such modules are frozen and their IR version is raised to 4. From version 4 on such an input is meant to be
    replaced, and is left alone unless `always` is set.

    Attributes:
        always: freeze whatever the IR version is.
    """

    name: ClassVar[str] = "freeze-inputs"
    always: bool = False

    def run(self, module: Module, context: PassContext) -> bool:
        """Freeze; True when an input became a constant."""
        del context
        if module.ir_version >= _FIRST_WITH_CONSTANTS and not self.always:
            return False
        graph = module.graph
        frozen = [value for value in graph.inputs if value.constant is not None]
        for value in frozen:
            name = value.name
            made = graph.add_constant(Value(graph.clock.unique_name(name)), value.constant)
            made.doc_string, made.metadata = value.doc_string, dict(value.metadata)
            value.replace_all_uses_with(made)
            graph.remove_input(value)
            made.name = name
        if frozen:
            module.ir_version = max(module.ir_version, _FIRST_WITH_CONSTANTS)
        return bool(frozen)
