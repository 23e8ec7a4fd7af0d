"""Run by an interpreter that has qonnx: `python run_qonnx.py model.onnx inputs.npz results.npz [converted.onnx]`.

Writes every tensor of qonnx's execution, then prints, as JSON, the data types that qonnx infers for the tensors that
the file annotates; with a fourth argument also qonnx's own conversion to QuantizeLinear, Clip, DequantizeLinear.
"""

import json
import sys

import numpy as np
import qonnx.core.onnx_exec as execution
from qonnx.core.modelwrapper import ModelWrapper
from qonnx.transformation.infer_datatypes import InferDataTypes
from qonnx.transformation.qonnx_to_qcdq import QuantToQCDQ

model = ModelWrapper(sys.argv[1])
found = execution.execute_onnx(model, dict(np.load(sys.argv[2])), return_full_exec_context=True)
names = sorted(name for name, array in found.items() if isinstance(array, np.ndarray))
np.savez(sys.argv[3], names=np.array(names), **{f"t{i}": found[name] for i, name in enumerate(names)})
stated = {
    entry.tensor_name: entry.quant_parameter_tensor_names[0].value for entry in model.graph.quantization_annotation
}
inferred = model.transform(InferDataTypes(allow_scaledint_dtypes=True))
print(json.dumps({name: [label, inferred.get_tensor_datatype(name).name] for name, label in stated.items()}))
if len(sys.argv) > 4:
    model.transform(QuantToQCDQ()).save(sys.argv[4])
