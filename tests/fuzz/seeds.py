"""The valid files that mutations begin with, made by qir itself: a folder a kind, small files of every form."""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import shutil
import sqlite3
import wave
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

import qir
import qir.search
from qir.backends.costs.tables.delay_files import delays_of
from qir.fake_quant import policy_of
from qir.passes import PassContext, PassManager, parse_pipeline

IMAGE = (1, 6, 6)
IDENTITY = {"model": "m1", "data": "d1", "protocol": "ptq"}
RNG = np.random.default_rng(0)
SAMPLES = RNG.normal(size=(4, *IMAGE)).astype(np.float32)


def model() -> onnx.ModelProto:
    """Convolution, BatchNormalization, ReLU, residual, pooling, Gemm: a network of 3 KB."""
    random = np.random.default_rng(1)

    def constant(name: str, *shape: int) -> TensorProto:
        return numpy_helper.from_array(random.normal(size=shape).astype(np.float32), name)

    nodes = [
        helper.make_node("Conv", ["x", "c.w", "c.b"], ["c"], "c", pads=[1] * 4),
        helper.make_node("BatchNormalization", ["c", "s", "b", "m", "v"], ["n"], "n"),
        helper.make_node("Relu", ["n"], ["r"], "r"),
        helper.make_node("Conv", ["r", "d.w"], ["d"], "d", pads=[1] * 4, group=4),
        helper.make_node("Add", ["d", "r"], ["a"], "a"),
        helper.make_node("MaxPool", ["a"], ["p"], "p", kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Flatten", ["p"], ["f"], "f"),
        helper.make_node("Gemm", ["f", "g.w", "g.b"], ["y"], "g", transB=1),
    ]
    tensors = [constant("c.w", 4, 1, 3, 3), constant("c.b", 4), constant("s", 4), constant("b", 4), constant("m", 4)]
    tensors += [numpy_helper.from_array(np.ones(4, np.float32), "v"), constant("d.w", 4, 1, 3, 3)]
    tensors += [constant("g.w", 3, 36), constant("g.b", 3)]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", *IMAGE])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 3])],
        tensors,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def with_functions() -> onnx.ModelProto:
    """A function, an If that captures, a Loop, sparse and external-looking metadata, shapes that are computed."""
    text = """<ir_version: 10, opset_import: ["" : 21, "local" : 1], metadata_props: ["k": "v"]>
    agraph (float[N, 4] x, bool b) => (float[M, K] y)
    <int64[2] shape = {2, -1}, int64 three = {3}, bool yes = {1}>
    {
        h = local.twice (x)
        c = If (b) <then_branch = t () => (float[N, 4] o) { o = Add (h, x) },
                    else_branch = e () => (float[N, 4] q) { q = Relu (h) }>
        l = Loop (three, yes, c) <body = body (int64 i, bool go, float[N, 4] s) => (bool again, float[N, 4] t)
            { again = Identity (go)  t = Add (s, x) }>
        k = Shape (l)
        z = Reshape (l, shape)
        n = ConstantOfShape (k)
        u = Range <a: int = 1> (three, three, three)
        y = Concat <axis = 0> (z, z)
    }
    <domain: "local", opset_import: ["" : 21]> twice (a) => (b) { b = Add (a, a) }"""
    return onnx.parser.parse_model(text.replace("u = Range <a: int = 1> (three, three, three)\n", ""))


@cache
def calibrated() -> qir.Module:
    module = qir.load(model().SerializeToString())
    pipeline = parse_pipeline("canonicalize,fold-batchnorm,insert-fake-quant,calibrate{method=minmax}")
    PassManager(pipeline).run(module, PassContext(calibration_data=SAMPLES))
    return module


PROFILES = ("qcdq", "qoperator", "qonnx", "encodings", "finn-thresholds", "qdq-int4")


@cache
def exported(root: Path, profile: str) -> Path:
    path = root / "exported" / profile / "m.quant.onnx"
    if path.exists():
        return path
    qir.export(calibrated().clone(), path, profile=profile, data=SAMPLES)
    return path


@cache
def quantized(root: Path) -> Path:
    """The folder of `qir.quantize`: model, guide, `done.json`, `milp.json`."""
    folder = root / "quantized"
    if folder.exists():
        return folder
    folder.mkdir(parents=True)
    (folder / "m.onnx").write_bytes(model().SerializeToString())
    options = {"target": "npu-148", "data": SAMPLES, "labels": np.arange(4) % 2, "budgets": {"latency": "0.7x"}}
    done = qir.quantize(folder / "m.onnx", output=folder / "m.quant.onnx", **options, compare=False, method="milp")
    done.save(folder / "done.json")
    done.result.save(folder / "milp.json")
    return folder


@cache
def searched(root: Path) -> Path:
    """The folder of a search: its store `s.db`, its result `random.json`."""
    folder = root / "searched"
    if folder.exists():
        return folder
    folder.mkdir(parents=True)
    measured = qir.search.Problem(
        [qir.search.Decision(f"l{i}", (2, 4, 8)) for i in range(3)],
        costs={"latency": [[1.0, 2.0, 3.0]] * 3},
        objective=lambda policy: float(sum(policy.values())),
        identity=IDENTITY,
    )
    qir.search.solve(measured, "random", evaluations=5, store=folder / "wal.db").save(folder / "random.json")
    with contextlib.closing(sqlite3.connect(folder / "wal.db")) as database:
        database.execute("VACUUM INTO ?", (str(folder / "s.db"),))
    return folder


def _onnx(root: Path, folder: Path) -> None:
    for name, made in (("small", model()), ("functions", with_functions())):
        (folder / f"{name}.onnx").write_bytes(made.SerializeToString())
    qir.save(calibrated(), folder / "fake_quant.onnx")
    data = Path(onnx.__file__).parent / "backend" / "test" / "data"
    bundled = [path for path in sorted(data.rglob("*.onnx")) if path.stat().st_size < 20_000]
    for index, path in enumerate(bundled[:: max(1, len(bundled) // 150)]):
        shutil.copy(path, folder / f"{index}.{path.parent.name}.onnx")


def _quantized_onnx(root: Path, folder: Path) -> None:
    for profile in PROFILES:
        shutil.copy(exported(root, profile), folder / f"{profile}.onnx")


def _text(root: Path, folder: Path) -> None:
    for name, module in (("small", qir.load(model().SerializeToString())), ("fake_quant", calibrated()),
                         ("functions", qir.load(with_functions().SerializeToString()))):  # fmt: skip
        (folder / f"{name}.qir").write_text(qir.print_module(module), encoding="utf-8")


def _guides(root: Path, folder: Path) -> None:
    shutil.copy(exported(root, "qcdq").with_name("m.guide.json"), folder / "m.guide.json")


def _targets(root: Path, folder: Path) -> None:
    shipped = Path(qir.backends.__file__).parent / "targets"
    for path in sorted(shipped.rglob("*.json")):
        shutil.copy(path, folder / path.name)


def _policies(root: Path, folder: Path) -> None:
    bits = policy_of(calibrated().graph)
    (folder / "p.json").write_text(json.dumps(dict(bits)))
    (folder / "channels.json").write_text(json.dumps({name: [8, 8, 0, 8] for name in bits}))


def _stores(root: Path, folder: Path) -> None:
    shutil.copy(searched(root) / "s.db", folder / "s.db")


def _delays(root: Path, folder: Path) -> None:
    table = delays_of(qir.cost(calibrated(), "npu-148"))
    for name in ("t.csv", "t.json"):
        table.write(folder / name)
    np.save(folder / "haq.npy", np.ones((2, 8, 8)))
    (folder / "hawq.json").write_text(json.dumps({"latency_int4": [0.5, 1], "latency_int8": [1.0, 2]}))
    shapes = (
        "layer,weight_bits,activation_bits,delay,in_channels,out_channels,height,width,kernel,stride,padding,groups"
    )
    (folder / "shapes.csv").write_text(f"{shapes}\nc,8,8,12.5,4,4,6,6,3x3,1x1,1x1,1\nc,4,8,7,4,4,6,6,3x3,1x1,1x1,1\n")


def _encodings(root: Path, folder: Path) -> None:
    shutil.copy(next(exported(root, "encodings").parent.glob("*.encodings")), folder / "m.encodings")


def _images(root: Path, folder: Path) -> None:
    pixels = np.random.default_rng(2).integers(0, 255, (7, 9, 3), np.uint8)
    for form in ("png", "jpeg", "bmp", "gif", "webp", "ppm", "tiff"):
        for mode in ("RGB", "L"):
            Image.fromarray(pixels).convert(mode).save(folder / f"{mode}.{form}", form)
    Image.fromarray(pixels).convert("P").save(folder / "palette.png")
    Image.fromarray(pixels.astype(np.uint8)[..., 0].astype(np.uint16) * 256).save(folder / "deep.png")


def _arrays(root: Path, folder: Path) -> None:
    np.save(folder / "x.npy", SAMPLES)
    np.savez(folder / "x.npz", x=SAMPLES, labels=np.arange(4))
    np.savez_compressed(folder / "y.npz", x=SAMPLES, labels=np.arange(4))


def _sounds(root: Path, folder: Path) -> None:
    for width in (1, 2, 4):
        with wave.open(str(folder / f"w{width}.wav"), "wb") as file:
            file.setparams((1, width, 8000, 0, "NONE", ""))
            file.writeframes(np.random.default_rng(3).bytes(64 * width))


def _ids(root: Path, folder: Path) -> None:
    (folder / "ids.txt").write_text("101, 7592 2088 102\n101 1 2 3 4 102\n\n101 102\n")


def _preprocessing(root: Path, folder: Path) -> None:
    own = {"size": [6, 6], "mean": [0.5], "std": [0.25], "range": [0, 1], "layout": "NCHW"}
    (folder / "preprocessing.json").write_text(json.dumps(own))
    hugging_face = {"do_resize": True, "size": {"shortest_edge": 8}, "crop_size": {"height": 6, "width": 6},
                    "do_center_crop": True, "do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True,
                    "image_mean": [0.5], "image_std": [0.5], "resample": 2}  # fmt: skip
    (folder / "preprocessor_config.json").write_text(json.dumps(hugging_face))


def _jobs(root: Path, folder: Path) -> None:
    shutil.copy(quantized(root) / "done.json", folder / "done.json")


def _job_files(root: Path, folder: Path) -> None:
    (folder / "cost.job.toml").write_text(
        'verb = "cost"\nmodel = "m.onnx"\ntarget = "npu-148"\nbatch = 2\nexplain = "all"\nshape = ["x=2,1,6,6"]\n'
    )


def _results(root: Path, folder: Path) -> None:
    shutil.copy(searched(root) / "random.json", folder / "random.json")


def _pipelines(root: Path, folder: Path) -> None:
    for index, text in enumerate(
        (
            "fold-constants,fold-batchnorm,insert-fake-quant{placement=deployable},calibrate{method=mse}",
            "freeze-inputs{shapes=[x:1x3x32x32]},insert-fake-quant{block=32,keep=[fc.*:8]}",
            "canonicalize,eliminate-dead-code,upgrade-opset{version=21}",
        )
    ):
        (folder / f"{index}.txt").write_text(text)


def _runs(root: Path, folder: Path) -> None:
    from qir.passes.infrastructure.reproducer import RUN_FILE

    (folder / RUN_FILE).write_text(json.dumps({"pipeline": "fold-constants", "seed": 0, "pass": "fold-constants"}))


def _checkpoints(root: Path, folder: Path) -> None:
    import torch

    from qir.backends.training.checkpoint import save_checkpoint

    save_checkpoint(folder / "c.pt", "mine", {"epoch": 1, "weights": {"w": torch.ones(3)}})


def _foreign(root: Path, folder: Path) -> None:
    """Files that are taken for something else before they are refused."""
    archive = io.BytesIO()
    np.savez(archive, x=np.ones(3))
    (folder / "a.zip").write_bytes(archive.getvalue())
    (folder / "g.gz").write_bytes(gzip.compress(b"onnx"))
    (folder / "t.tflite").write_bytes(b"\x1c\0\0\0TFL3" + bytes(64))
    (folder / "s.safetensors").write_bytes(len(b'{"a":1}').to_bytes(8, "little") + b'{"a":1}' + bytes(16))


MAKERS: dict[str, Callable[[Path, Path], None]] = {
    "onnx": _onnx,
    "quantized_onnx": _quantized_onnx,
    "text": _text,
    "guide": _guides,
    "target": _targets,
    "policy": _policies,
    "store": _stores,
    "delays": _delays,
    "encodings": _encodings,
    "image": _images,
    "array": _arrays,
    "sound": _sounds,
    "ids": _ids,
    "preprocessing": _preprocessing,
    "job": _jobs,
    "job_file": _job_files,
    "result": _results,
    "pipeline": _pipelines,
    "run": _runs,
    "checkpoint": _checkpoints,
    "foreign": _foreign,
}


def seed_files(root: Path, kind: str) -> list[Path]:
    """The files of a kind, made below `root` when they are first asked for."""
    folder = root / kind
    if not folder.exists():
        folder.mkdir(parents=True)
        MAKERS[kind](root, folder)
    return sorted(path for path in folder.iterdir() if path.is_file())


def make_all(root: Path) -> None:
    """Make the files of every kind, before processes that share them are started."""
    for kind in MAKERS:
        seed_files(root, kind)
