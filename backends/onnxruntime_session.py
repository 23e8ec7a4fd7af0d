"""Running a network in ONNX Runtime on the CPU."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qir.errors import DataError, QirError
from qir.module import Module
from qir.tensor import Array

_LEVELS = {"all": "ORT_ENABLE_ALL", "extended": "ORT_ENABLE_EXTENDED", "basic": "ORT_ENABLE_BASIC", "disable": "ORT_DISABLE_ALL"}
INTEGER_OPS = frozenset(
    {"QLinearConv", "QLinearMatMul", "QGemm", "QLinearAdd", "QLinearMul", "QLinearConcat", "QLinearAveragePool",
     "QLinearGlobalAveragePool", "QLinearSigmoid", "QLinearLeakyRelu", "QLinearSoftmax", "MatMulInteger", "ConvInteger",
     "MatMulIntegerToFloat", "DynamicQuantizeMatMul", "MatMulNBits"}
)  # fmt: skip
"""Operators of ONNX Runtime's CPU kernels that compute on integers."""


class OrtSession:
    """A loaded network.

    Attributes:
        output_names: names of the outputs, in order.

    Raises:
        QirError: ONNX Runtime refuses the model; the message holds its reason.
    """

    def __init__(
        self,
        model: Module | str | Path | bytes,
        *,
        optimization: str = "all",
        disable_qdq_fusion: bool = False,
        threads: int = 1,
        save_optimized: Path | None = None,
    ) -> None:
        import onnxruntime

        if optimization not in _LEVELS:
            raise QirError(f"optimization {optimization!r} is unknown; expected one of {', '.join(_LEVELS)}")
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, _LEVELS[optimization])
        options.intra_op_num_threads = threads
        if disable_qdq_fusion:
            options.add_session_config_entry("session.disable_quant_qdq", "1")
        if save_optimized is not None:
            options.optimized_model_filepath = str(save_optimized)
        self._source = _source(model)
        self._optimization = optimization
        self._session = _create(onnxruntime, self._source, options)
        self.output_names = tuple(output.name for output in self._session.get_outputs())

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Outputs by name.

        Raises:
            DataError: the feeds do not fit, or a kernel fails; the message holds ONNX Runtime's reason.
        """
        try:
            found: list[Any] = self._session.run(None, dict(feeds))
        except Exception as error:  # noqa: BLE001 - onnxruntime raises classes of its own, without a common base
            raise DataError(f"ONNX Runtime cannot run the network: {_reason(error)}") from error
        return dict(zip(self.output_names, found, strict=True))

    def optimized_ops(self) -> tuple[str, ...]:
        """Op types of the graph after ONNX Runtime's optimizations, in order."""
        from qir.onnx_io import load

        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "optimized.onnx"
            OrtSession(self._source, optimization=self._optimization, save_optimized=path)
            return tuple(node.op for node in load(path.read_bytes()).graph)

    def integer_nodes(self) -> tuple[str, ...]:
        """Op types of the optimized graph that compute on integers, in order."""
        return tuple(op for op in self.optimized_ops() if op in INTEGER_OPS)


def _source(model: Module | str | Path | bytes) -> str | bytes:
    if isinstance(model, Module):
        from qir.onnx_io import to_bytes

        return to_bytes(model)
    return model if isinstance(model, bytes) else str(model)


def _create(onnxruntime: Any, source: str | bytes, options: Any) -> Any:
    try:
        return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # noqa: BLE001 - onnxruntime raises classes of its own, without a common base
        raise QirError(f"ONNX Runtime cannot load the network: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
