"""qir: a compiler-style toolkit for mixed-precision quantization of ONNX networks.

Names are handed out on first use, so that `import qir` loads neither torch, onnxruntime, onnx, networkx nor pydantic.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from qir.support.lazy import names_of

if TYPE_CHECKING:
    from qir.attributes import Attribute as Attribute
    from qir.errors import QirError as QirError
    from qir.errors import VerifyError as VerifyError
    from qir.graph import Graph as Graph
    from qir.graph import Node as Node
    from qir.graph import Value as Value
    from qir.module import Function as Function
    from qir.module import Module as Module
    from qir.onnx_io import load as load
    from qir.onnx_io import save as save
    from qir.policy import Policy as Policy
    from qir.tensor import Tensor as Tensor
    from qir.text.parser import parse as parse
    from qir.text.printer import print_module as print_module
    from qir.types import DType as DType
    from qir.types import QuantType as QuantType
    from qir.types import TensorType as TensorType
    from qir.verifier import verify as verify

__version__ = "0.1.0"

_HOME = {
    "Attribute": "attributes",
    "DType": "types",
    "Function": "module",
    "Graph": "graph",
    "Module": "module",
    "Node": "graph",
    "Policy": "policy",
    "QirError": "errors",
    "QuantType": "types",
    "Tensor": "tensor",
    "TensorType": "types",
    "Value": "graph",
    "VerifyError": "errors",
    "load": "onnx_io",
    "parse": "text.parser",
    "print_module": "text.printer",
    "save": "onnx_io",
    "verify": "verifier",
}

__all__ = ["__version__", *sorted(_HOME)]

__getattr__, __dir__ = names_of(__name__, _HOME)
