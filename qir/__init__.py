"""qir: a compiler-style toolkit for mixed-precision quantization of ONNX networks.

Names are handed out on first use, so that `import qir` loads neither torch, onnxruntime, onnx, networkx nor pydantic.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

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
    from qir.text import parse as parse
    from qir.text import print_module as print_module
    from qir.types import DType as DType
    from qir.types import QuantType as QuantType
    from qir.types import TensorType as TensorType
    from qir.verifier import verify as verify

__version__ = "0.1.0"

_HOME = {
    "Attribute": "qir.attributes",
    "DType": "qir.types",
    "Function": "qir.module",
    "Graph": "qir.graph",
    "Module": "qir.module",
    "Node": "qir.graph",
    "Policy": "qir.policy",
    "QirError": "qir.errors",
    "QuantType": "qir.types",
    "Tensor": "qir.tensor",
    "TensorType": "qir.types",
    "Value": "qir.graph",
    "VerifyError": "qir.errors",
    "load": "qir.onnx_io",
    "parse": "qir.text",
    "print_module": "qir.text",
    "save": "qir.onnx_io",
    "verify": "qir.verifier",
}

__all__ = ["__version__", *sorted(_HOME)]


def __getattr__(name: str) -> Any:
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module 'qir' has no attribute {name!r}")
    return getattr(importlib.import_module(home), name)
