"""qir: a compiler-style toolkit for mixed-precision quantization of ONNX networks.

Names are handed out on first use, so that `import qir` loads neither torch, onnxruntime, onnx, networkx nor pydantic.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from qir.support.lazy import names_of

if TYPE_CHECKING:
    from qir.attributes import Attribute as Attribute
    from qir.backends.costs.building.builder import cost_table as cost  # noqa: F401 - `__all__` is made from `_HOME`
    from qir.backends.costs.target import Target as Target
    from qir.backends.costs.target import load_target as load_target
    from qir.errors import QirError as QirError
    from qir.errors import VerifyError as VerifyError
    from qir.graph import Graph as Graph
    from qir.graph import Node as Node
    from qir.graph import Value as Value
    from qir.module import Function as Function
    from qir.module import Module as Module
    from qir.onnx_io import load as load
    from qir.onnx_io import save as save
    from qir.passes.exporting.export import export as export
    from qir.passes.infrastructure.contract import Pass as Pass
    from qir.passes.infrastructure.contract import PassContext as PassContext
    from qir.passes.infrastructure.manager import PassManager as PassManager
    from qir.passes.infrastructure.run_passes import run_passes as run_passes
    from qir.passes.parity.evaluate import evaluate as evaluate
    from qir.policy import Policy as Policy
    from qir.search.job.quantize import quantize as quantize
    from qir.search.methods import solve as solve
    from qir.search.problem.parts import Budget as Budget
    from qir.search.problem.problem import Problem as Problem
    from qir.search.recipes.table import recipe as recipe
    from qir.tensor import Tensor as Tensor
    from qir.text.parser import parse as parse
    from qir.text.printer import print_module as print_module
    from qir.types import DType as DType
    from qir.types import QuantType as QuantType
    from qir.types import TensorType as TensorType
    from qir.verifier import verify as verify

__version__ = "0.2.0"

_HOME = {
    "Attribute": "attributes",
    "Budget": "search",
    "DType": "types",
    "Function": "module",
    "Graph": "graph",
    "Module": "module",
    "Node": "graph",
    "Pass": "passes",
    "PassContext": "passes",
    "PassManager": "passes",
    "Policy": "policy",
    "Problem": "search",
    "QirError": "errors",
    "QuantType": "types",
    "Target": "backends",
    "Tensor": "tensor",
    "TensorType": "types",
    "Value": "graph",
    "VerifyError": "errors",
    "cost": "backends:cost_table",
    "evaluate": "passes",
    "export": "passes",
    "load": "onnx_io",
    "load_target": "backends",
    "parse": "text.parser",
    "print_module": "text.printer",
    "quantize": "search",
    "recipe": "search",
    "run_passes": "passes",
    "save": "onnx_io",
    "solve": "search",
    "verify": "verifier",
}

__all__ = ["__version__", *sorted(_HOME)]

__getattr__, __dir__ = names_of(__name__, _HOME)
