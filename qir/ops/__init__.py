"""The op registry: one entry per (domain, op, since_version) answers every question about an op.

- `op_of(node)` → `OpDef`: facts that hold in every version of the op
- `lookup(node, module)` → `OpDef` in the imported operator set, with ONNX's `.schema` and `.since_version`
- `OpDef.quantizable(node)` → `Operands` or None: operands to quantize, channel axis of the weight
- `OpDef.float_kernel(node)` → `FloatKernel` or None: what is put on grids around a node that computes in float
- `OpDef.grid_operand(node)` → index or None: operand whose grid the result always keeps
- `OpDef.macs(node, batch=None)`, `OpDef.layer_shape(node, batch=None)`: multiply-accumulates, None = unknown
- `OpDef.fuses_into_producer(node)`: runs for free after its producer
- kinds: `is_known`, `is_expensive`, `is_elementwise`, `is_join`, `is_average`, `is_activation`, `is_movement`,
  `is_random`, `is_quantize`, `is_dequantize`, `has_subgraphs`
- `infer(node, module)` → types of the results; `infer_graph(module, changed_only=False)`
- `entries()`, `OpDef.examples`: nodes to test executors with

An op that the registry does not hold is never quantized, keeps no grid, and its cost is unknown (None), not zero.
"""

from qir.ops.definition import FloatKernel, OpDef, Operands
from qir.ops.inference import infer, infer_graph
from qir.ops.layer_shape import LayerShape
from qir.ops.registry import entries, lookup, op_of, register

__all__ = [
    "FloatKernel",
    "LayerShape",
    "OpDef",
    "Operands",
    "entries",
    "infer",
    "infer_graph",
    "lookup",
    "op_of",
    "register",
]
