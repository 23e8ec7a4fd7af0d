"""Quantizers of QONNX and FINN-ONNX, dialects of ONNX in which few-bit networks reach FINN and hls4ml.

The operators stand in the domain `qonnx.custom_op.general`; `onnx.brevitas` and `finn.custom_op.general` are its older
names. ONNX has no schema of them.
"""

from __future__ import annotations

from qir.ops.definition import OpDef

QONNX_DOMAIN = "qonnx.custom_op.general"
"""The domain that files are written with."""

QONNX_DOMAINS = (QONNX_DOMAIN, "onnx.brevitas", "finn.custom_op.general")
"""Every name of the domain that files in use have."""

OPS = tuple(
    OpDef(name, domain, is_elementwise=True, keeps_type=True)
    for domain in QONNX_DOMAINS
    for name in ("Quant", "IntQuant", "BipolarQuant", "Trunc", "MultiThreshold")
)
