"""Run by an interpreter that has FINN: `python run_finn.py model.onnx inputs.npz results.npz`.

Converts a QONNX file to FINN-ONNX with FINN's own transformation and executes the result.
"""

import sys

import numpy as np
import qonnx.core.onnx_exec as execution
from finn.transformation.qonnx.convert_qonnx_to_finn import ConvertQONNXtoFINN
from qonnx.core.modelwrapper import ModelWrapper
from qonnx.util.cleanup import cleanup_model

model = cleanup_model(ModelWrapper(sys.argv[1]))
model = model.transform(ConvertQONNXtoFINN())
print(" ".join(sorted({node.op_type for node in model.graph.node})))
feeds = dict(np.load(sys.argv[2]))
names = [entry.name for entry in model.graph.input]
found = execution.execute_onnx(model, dict(zip(names, feeds.values(), strict=True)))
np.savez(sys.argv[3], y=next(iter(found.values())))
