"""The process in which ONNX's inference and single nodes of files run: a script, started by `qir.onnx_io.sandbox`.

Jobs come on standard input, answers go to standard output, each as one message: 8 bytes of length (little-endian) and
so many bytes. A job is one letter, 8 bytes of memory that it may take beyond what the process has, 8 of milliseconds of
the CPU, and a serialized model; an answer is `+` and its bytes, `-` and a reason, or `!` when memory did not suffice.
The process ends when its input does.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import signal
import sys
from collections.abc import Callable
from functools import cache
from types import ModuleType
from typing import Any, BinaryIO

PAGE = 4096

INFERENCE = "onnx.onnx_cpp2py_export.shape_inference"
"""ONNX's compiled inference: from the bytes of a model to those of the model with types."""


def main() -> None:
    """Answer jobs until the input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    source, sink = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what kernels print is not an answer
    load_inference()
    send(sink, b"+")
    while (job := receive(source)) is not None:
        limit_memory(int.from_bytes(job[1:9], "little"))
        limit_time(int.from_bytes(job[9:17], "little") / 1000)
        try:
            answer = b"+" + JOBS[job[:1]](job[17:])
        except MemoryError:
            answer = b"!"
        except Exception as error:  # noqa: BLE001 - libraries raise what they like; the answer carries the reason
            answer = b"-" + (str(error).strip() or type(error).__name__).encode(errors="replace")
        limit_time(0)
        send(sink, answer)


def send(sink: BinaryIO, message: bytes) -> None:
    """Write one message."""
    sink.write(len(message).to_bytes(8, "little"))
    sink.write(message)
    sink.flush()


def receive(source: BinaryIO) -> bytes | None:
    """Read one message, None at the end of the input."""
    length = source.read(8)
    if len(length) < 8:
        return None
    message = source.read(int.from_bytes(length, "little"))
    return message if len(message) == int.from_bytes(length, "little") else None


def limit_memory(more: int) -> None:
    """Let the address space grow by so many bytes, where the system can limit it."""
    try:
        import resource

        with open("/proc/self/statm", encoding="ascii") as file:  # noqa: PTH123 - pathlib takes longer to load
            pages = int(file.read().split()[0])
        hard = resource.getrlimit(resource.RLIMIT_AS)[1]
        resource.setrlimit(resource.RLIMIT_AS, (pages * PAGE + more, hard))
    except (ImportError, OSError, ValueError):
        return


def limit_time(seconds: float) -> None:
    """End the process after so many seconds of the CPU, 0 for no end, where the system counts them."""
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_PROF, seconds)  # its signal ends a process that does not ask for it, C++ too


@cache
def load_inference() -> Any:
    """Return ONNX's compiled inference, without the rest of its package: importing that takes ten times as long."""
    found = importlib.util.find_spec("onnx")
    if found is None or found.submodule_search_locations is None:
        raise ImportError("onnx is not installed")
    bare = sys.modules["onnx"] = ModuleType("onnx")
    bare.__path__ = list(found.submodule_search_locations)
    compiled = importlib.import_module(INFERENCE)
    del sys.modules["onnx"]  # an evaluation imports all of it
    return compiled


def infer(model: bytes, *, with_data: bool = False) -> bytes:
    """Return the model with the types that inference finds."""
    check_type, strict_mode = False, False
    found: bytes = load_inference().infer_shapes(model, check_type, strict_mode, with_data)
    return found


def infer_with_data(model: bytes) -> bytes:
    """Return the same, with the numbers in computed shapes."""
    return infer(model, with_data=True)


def evaluate(model: bytes) -> bytes:
    """Return the outputs of a model without inputs, as the initializers of a graph.

    By ONNX Runtime, else by the reference.
    """
    import onnx
    from onnx import numpy_helper

    try:
        found = run_session(model)
    except MemoryError:
        raise
    except Exception as error:  # noqa: BLE001 - ONNX Runtime has no class of errors
        found = run_reference(model, str(error).strip().splitlines()[0])
    graph = onnx.GraphProto()
    for array in found:
        graph.initializer.append(numpy_helper.from_array(array))
    answer: bytes = graph.SerializeToString()
    return answer


def run_session(model: bytes) -> list[Any]:
    """By ONNX Runtime, as it stands in the file."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    return list(onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"]).run(None, {}))


def run_reference(model: bytes, refused: str) -> list[Any]:
    """By `onnx.reference`; `refused` is what ONNX Runtime said."""
    import onnx
    from onnx.reference import ReferenceEvaluator

    try:
        found: Any = ReferenceEvaluator(onnx.ModelProto.FromString(model)).run(None, {})
    except MemoryError:
        raise
    except Exception as error:
        raise ValueError(f"{refused}; the reference says {error}") from error
    return list(found)


JOBS: dict[bytes, Callable[[bytes], bytes]] = {b"i": infer, b"d": infer_with_data, b"e": evaluate}

if __name__ == "__main__":
    main()
