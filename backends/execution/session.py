"""Running a network in ONNX Runtime on the CPU."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from qir.errors import DataError, QirError
from qir.labels import unique_labels
from qir.module import Module
from qir.tensor import Array

_LEVELS = {
    "all": "ORT_ENABLE_ALL",
    "extended": "ORT_ENABLE_EXTENDED",
    "basic": "ORT_ENABLE_BASIC",
    "disable": "ORT_DISABLE_ALL",
}
INTEGER_OPS = frozenset(
    {"QLinearConv", "QLinearMatMul", "QGemm", "QLinearAdd", "QLinearMul", "QLinearConcat", "QLinearAveragePool",
     "QLinearGlobalAveragePool", "QLinearSigmoid", "QLinearLeakyRelu", "QLinearSoftmax", "MatMulInteger", "ConvInteger",
     "MatMulIntegerToFloat", "DynamicQuantizeMatMul", "MatMulNBits"}
)  # fmt: skip
"""Operators of ONNX Runtime's CPU kernels that compute on integers."""


class OrtSession:
    """A loaded network.

    Args:
        model: the network, a path of its file, or the file's bytes.
        optimization: `all`, `extended`, `basic` or `disable`.
        disable_qdq_fusion: keep QuantizeLinear and DequantizeLinear as they stand; no integer kernels.
        threads: of one operator.
        precise: on x86 CPUs without VNNI, turn signed weights of fused layers into unsigned ones, whose kernels do not
            saturate there (`session.x64quantprecision`); nothing changes on other CPUs.
        reduced_accuracy: let products with weights of 4 bits quantize their activations to int8 (MatMulNBits).
        save_optimized: where to write the optimized network.
        profile: beginning of the path of a profile of the runs.

    Attributes:
        input_names: names of the inputs, in order.
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
        precise: bool = False,
        reduced_accuracy: bool = False,
        save_optimized: Path | None = None,
        profile: Path | None = None,
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
        if precise:
            options.add_session_config_entry("session.x64quantprecision", "1")
        if not reduced_accuracy:
            options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")
        if save_optimized is not None:
            options.optimized_model_filepath = str(save_optimized)
            data = f"{save_optimized.name}.data"
            options.add_session_config_entry("session.optimized_model_external_initializers_file_name", data)
        if profile is not None:
            options.enable_profiling = True
            options.profile_file_prefix = str(profile)
        self._source = _source(model)
        self._settings: dict[str, Any] = {
            "optimization": optimization,
            "disable_qdq_fusion": disable_qdq_fusion,
            "threads": threads,
            "precise": precise,
        }
        self._session = _create(onnxruntime, self._source, options)
        self.input_names = tuple(entry.name for entry in self._session.get_inputs())
        self.output_names = tuple(output.name for output in self._session.get_outputs())

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Return outputs by name.

        Raises:
            DataError: the feeds do not fit, or a kernel fails; the message holds ONNX Runtime's reason.
        """
        try:
            found: list[Any] = self._session.run(None, dict(feeds))
        except Exception as error:
            raise DataError(f"ONNX Runtime cannot run the network: {_reason(error)}") from error
        return dict(zip(self.output_names, found, strict=True))

    def optimized_ops(self) -> tuple[str, ...]:
        """Return the op types of the graph after ONNX Runtime's optimizations, in order."""
        from qir.onnx_io import load

        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "optimized.onnx"
            OrtSession(self._source, **self._settings, save_optimized=path)
            return tuple(node.op for node in load(path).graph)

    def kernel_times(self, feeds: Mapping[str, Array], runs: int = 20) -> dict[str, float]:
        """Return microseconds that a run spends in the kernels of each op type after ONNX Runtime's optimizations.

        The median over `runs` of each node, summed over the nodes of an op type. Raises `DataError` as `run` does.
        """
        with tempfile.TemporaryDirectory() as folder:
            session = OrtSession(self._source, **self._settings, profile=Path(folder) / "runs")
            for _ in range(runs):
                session.run(feeds)
            events = json.loads(Path(session._session.end_profiling()).read_text(encoding="utf-8"))
        nodes: dict[tuple[str, str], list[float]] = {}
        for event in events:
            if event["cat"] == "Node" and event["name"].endswith("_kernel_time"):
                nodes.setdefault((event["args"]["op_name"], event["name"]), []).append(event["dur"])
        times: dict[str, float] = {}
        for (op, _), durations in nodes.items():
            times[op] = times.get(op, 0.0) + float(np.median(durations))
        return times

    def integer_nodes(self) -> tuple[str, ...]:
        """Return the op types of the optimized graph that compute on integers, in order."""
        return tuple(op for op in self.optimized_ops() if op in INTEGER_OPS)


def _source(model: Module | str | Path | bytes) -> str | bytes:
    if isinstance(model, Module):
        from qir.onnx_io import to_bytes

        return to_bytes(_told_apart(model))
    return model if isinstance(model, bytes) else str(model)


def _told_apart(module: Module) -> Module:
    """Return a module in which no node's name repeats: ONNX allows it, ONNX Runtime does not."""
    names = [node.name for node in module.graph.walk() if node.name]
    if len(set(names)) == len(names):
        return module
    copy = module.clone()
    for node, name in unique_labels(copy.graph).items():
        node.name = name
    return copy


def _create(onnxruntime: Any, source: str | bytes, options: Any) -> Any:
    try:
        return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise QirError(f"ONNX Runtime cannot load the network: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
