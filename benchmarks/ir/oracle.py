"""Round trips against an independent reader (onnx_ir): `python benchmarks oracle [FILE.onnx ...] [--every N]`.

Without files: every model inside the installed `onnx` wheel, its node tests included. Each goes through
import, verification, text, parsing and export; the written model must equal the original as onnx_ir reads both, and
give the same outputs in ONNX Runtime wherever that loads the original. Prints the counts and names every exception.
"""

from __future__ import annotations

import argparse
import atexit
import collections
import importlib.metadata
import shutil
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir
from google.protobuf.message import Message

import qir
from qir.backends.execution.session import OrtSession
from qir.errors import DataError, QirError
from qir.onnx_io import to_bytes
from qir.types import TensorType

LARGEST_TEXT = 3_000_000
"""Files of more bytes are not printed as text."""


def bundled_models() -> list[Path]:
    """Every model file inside the installed onnx wheel."""
    paths = sorted((Path(onnx.__file__).parent / "backend" / "test" / "data").rglob("*.onnx"))
    return paths if any(path.parts[-3] == "node" for path in paths) else paths + _generated_node_tests()


@cache
def _generated_node_tests() -> list[Path]:
    """The node tests of wheels that bring them as code (onnx 1.23), written to a temporary folder."""
    from onnx.backend.test.case.node import collect_testcases

    root = Path(tempfile.mkdtemp(prefix="qir-node-tests-"))
    atexit.register(shutil.rmtree, root, ignore_errors=True)
    paths = []
    for case in collect_testcases(None):
        folder = root / "node" / case.name / "test_data_set_0"
        folder.mkdir(parents=True)
        paths.append(folder.parent / "model.onnx")
        onnx.save(case.model, paths[-1])
        for index, value in enumerate(case.data_sets[0][0] if case.data_sets else ()):
            stored = onnx.numpy_helper.from_array(value) if isinstance(value, np.ndarray) else value
            if isinstance(stored, onnx.TensorProto):
                (folder / f"input_{index}.pb").write_bytes(stored.SerializeToString())
    return paths


def _tensors(message: Message) -> Iterator[onnx.TensorProto]:
    for field, value in message.ListFields():
        if field.message_type is None:
            continue
        for each in value if not isinstance(value, Message) else [value]:
            if isinstance(each, onnx.TensorProto):
                yield each
            elif isinstance(each, Message):
                yield from _tensors(each)


def as_onnx_ir_reads(proto: onnx.ModelProto, *, same_storage: bool = False) -> onnx.ModelProto:
    """The model after a trip through onnx_ir; with `same_storage` every tensor's elements are raw bytes."""
    read: onnx.ModelProto = onnx_ir.serde.serialize_model(onnx_ir.serde.deserialize_model(proto))
    if same_storage:
        for tensor in _tensors(read):
            if tensor.data_type != onnx.TensorProto.STRING:
                raw = onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(tensor)).raw_data
                for name in ("float_data", "int32_data", "int64_data", "double_data", "uint64_data", "external_data"):
                    tensor.ClearField(name)
                tensor.ClearField("data_location")
                if not tensor.name:
                    tensor.ClearField("name")
                tensor.raw_data = raw
        # The order of initializers has no meaning.
        ordered = sorted(read.graph.initializer, key=lambda tensor: tensor.name)
        del read.graph.initializer[:]
        read.graph.initializer.extend(ordered)
    return read


def difference(path: Path) -> str:
    """What a trip through import, verification, text and export changes; empty when nothing."""
    original = onnx.load(path)
    module = qir.load(path)
    written = onnx.ModelProto.FromString(to_bytes(module))
    if as_onnx_ir_reads(written) != as_onnx_ir_reads(original):
        return "export differs"
    if path.stat().st_size > LARGEST_TEXT:
        return ""
    text = qir.print_module(module)
    parsed = qir.parse(text)
    if qir.print_module(parsed) != text:
        return "text differs after parsing"
    again = onnx.ModelProto.FromString(to_bytes(parsed))
    same = as_onnx_ir_reads(again, same_storage=True) == as_onnx_ir_reads(original, same_storage=True)
    return "" if same else "export after text differs"


def _feeds(session: OrtSession, module: qir.Module, folder: Path) -> dict[str, Any] | None:
    kinds, feeds = {value.name: value.type for value in module.graph.inputs}, {}
    for index, name in enumerate(session.input_names):
        stored = folder / "test_data_set_0" / f"input_{index}.pb"
        if not stored.exists() or not isinstance(kinds[name], TensorType):
            return None
        feeds[name] = onnx.numpy_helper.to_array(onnx.TensorProto.FromString(stored.read_bytes()))
    return feeds


def outputs_agree(path: Path) -> str:
    """`equal`, `differ`, or why ONNX Runtime cannot tell."""
    try:
        original = OrtSession(path)
    except QirError:
        return "original not loaded"
    module = qir.load(path)
    written = OrtSession(to_bytes(module))
    feeds = _feeds(original, module, path.parent)
    if feeds is None:
        return "loaded, no stored inputs"
    try:
        expected = original.run(feeds)
    except DataError:
        return "original not run"
    found = written.run(feeds)
    random_ops = {"RandomNormal", "RandomUniform", "Bernoulli", "RandomNormalLike", "RandomUniformLike", "Multinomial"}
    if any(node.op in random_ops for node in module.graph.walk()):
        return "random op"
    same = expected.keys() == found.keys() and all(_equal(expected[name], found[name]) for name in expected)
    return "equal" if same else "differ"


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, list):
        return len(a) == len(b) and all(map(_equal, a, b))
    if isinstance(a, np.ndarray) and a.dtype.kind not in "OUS":
        return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    return bool(np.all(a == b)) if isinstance(a, np.ndarray) else a == b


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="*", type=Path)
    parser.add_argument("--every", type=int, default=1, help="take every N-th model only")
    parser.add_argument("--no-run", action="store_true", help="no ONNX Runtime")
    arguments = parser.parse_args()
    paths = (arguments.files or bundled_models())[:: arguments.every]
    trips: collections.Counter[str] = collections.Counter()
    runs: collections.Counter[str] = collections.Counter()
    for path in paths:
        try:
            result = difference(path) or "equal"
            qir.verify(qir.load(path))
        except QirError as error:
            result = f"error: {error}"
        trips[result.split(":")[0]] += 1
        if result != "equal":
            print(f"{path.parent.name}/{path.name}: {result[:300]}")
        if not arguments.no_run and not result.startswith("error"):
            outcome = outputs_agree(path)
            runs[outcome] += 1
            if outcome == "differ":
                print(f"{path.parent.name}/{path.name}: outputs differ")
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("onnx", "onnx_ir", "onnxruntime"))
    print(f"{versions}\n{len(paths)} models, round trip: {dict(trips)}\nONNX Runtime: {dict(runs)}")


if __name__ == "__main__":
    main()
