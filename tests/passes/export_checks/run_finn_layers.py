"""Run by an interpreter that has FINN: `python run_finn_layers.py model.onnx inputs.npz results.npz`.

Turns a FINN-ONNX file into FINN's hardware layers with FINN's own transformations and executes them.
"""

import sys

import numpy as np
import qonnx.core.onnx_exec as execution
from finn.transformation.fpgadataflow.convert_to_hw.quantized_matrix_vector_activation import (
    InferQuantizedMatrixVectorActivation,
)
from finn.transformation.fpgadataflow.convert_to_hw.thresholding import InferThresholdingLayer
from onnx import helper
from qonnx.core.modelwrapper import ModelWrapper
from qonnx.transformation.general import GiveUniqueNodeNames
from qonnx.transformation.infer_data_layouts import InferDataLayouts
from qonnx.transformation.infer_datatypes import InferDataTypes
from qonnx.transformation.infer_shapes import InferShapes

model = ModelWrapper(sys.argv[1])
model.model.opset_import.append(helper.make_opsetid("finn.custom_op.fpgadataflow", 1))
for step in (InferShapes(), InferDataTypes(), InferDataLayouts(), GiveUniqueNodeNames()):
    model = model.transform(step)
model = model.transform(InferQuantizedMatrixVectorActivation()).transform(InferThresholdingLayer())
print(" ".join(node.op_type for node in model.graph.node))
found = execution.execute_onnx(model, dict(np.load(sys.argv[2])))
np.savez(sys.argv[3], y=next(iter(found.values())))
