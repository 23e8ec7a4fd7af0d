"""Files of a few hundred bytes that claim more than any memory holds are read within limits, or refused."""

import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

import qir
from qir.errors import ModelFileError
from qir.onnx_io import inference, sandbox
from qir.onnx_io.protos.wire import GRAPH_INITIALIZER, MODEL_GRAPH, field
from qir.onnx_io.sandbox import EVALUATE, INFER, INFER_WITH_DATA, LimitError, RefusedError, run_apart

LIMITS = {"seconds": 30.0, "memory": 1 << 29}


def int64(name, *numbers):
    return numpy_helper.from_array(np.asarray(numbers, np.int64), name)


def model_of(nodes, constants, shape=(1,)):
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", 1, shape)],
        [helper.make_tensor_value_info("y", 1, None)],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    return model.SerializeToString()


LONG = 10**11
MAKERS = {
    "ConstantOfShape": (["s"], [int64("s", LONG)]),
    "Expand": (["x", "s"], [int64("s", LONG)]),
    "Tile": (["x", "s"], [int64("s", LONG)]),
    "Pad": (["x", "s"], [int64("s", 0, LONG)]),
}
READERS = {
    "Add": [helper.make_node("Add", ["x", "k"], ["y"])],
    "Reshape": [
        helper.make_node("Cast", ["k"], ["i"], to=7),
        helper.make_node("Reshape", ["x", "i"], ["y"]),
    ],
    "Expand": [helper.make_node("Cast", ["k"], ["i"], to=7), helper.make_node("Expand", ["x", "i"], ["y"])],
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("op", MAKERS)
def test_a_vector_of_absurd_length_ends(op, reader, monkeypatch):
    monkeypatch.setattr(inference, "LARGEST_MEMORY", 64 << 20)
    operands, constants = MAKERS[op]
    data = model_of([helper.make_node(op, operands, ["k"]), *READERS[reader]], constants)
    start = time.monotonic()
    try:
        module = qir.load(data)
        qir.verify(module)
    except qir.QirError as error:
        assert "model" in str(error) or "node" in str(error)  # noqa: PT017 - either is right
    assert time.monotonic() - start < 60


def test_what_inference_finds_without_the_numbers_is_kept_when_there_are_too_many(monkeypatch):
    monkeypatch.setattr(inference, "LARGEST_MEMORY", 64 << 20)
    operands, constants = MAKERS["ConstantOfShape"]
    data = model_of([helper.make_node("ConstantOfShape", operands, ["k"]), *READERS["Add"]], constants)
    assert str(qir.load(data).graph.nodes[0].result.type) == f"tensor<[{LONG}]xfloat32>"


def test_a_file_that_passes_the_limits_both_ways_is_refused_by_name(monkeypatch, tmp_path):
    def refuse(job, model, **limits):
        raise LimitError("it takes too long")

    monkeypatch.setattr(inference, "run_apart", refuse)
    path = tmp_path / "absurd.onnx"
    path.write_bytes(model_of([helper.make_node("Abs", ["x"], ["k"]), *READERS["Add"]], []))
    with pytest.raises(ModelFileError, match=r"absurd\.onnx.*too long.*value_info"):
        qir.load(path)


def evaluated(op, *operands, **attributes):
    names = [f"c{i}" for i in range(len(operands))]
    graph = helper.make_graph(
        [helper.make_node(op, names, ["y"], **attributes)],
        "g",
        [],
        [onnx.ValueInfoProto(name="y")],
        [numpy_helper.from_array(o, n) for o, n in zip(operands, names, strict=True)],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10).SerializeToString()


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is limited on Linux only")
def test_an_outer_product_of_gigabytes_passes_the_limit_and_the_next_job_runs():
    long = np.ones(100_000, np.float32)
    with pytest.raises((LimitError, RefusedError)):
        run_apart(EVALUATE, evaluated("MatMul", long[:, None], long[None]), **LIMITS)
    small = evaluated("Add", np.ones(2, np.float32), np.ones(2, np.float32))
    (tensor,) = onnx.GraphProto.FromString(run_apart(EVALUATE, small, **LIMITS)).initializer
    assert numpy_helper.to_array(tensor).tolist() == [2, 2]


def test_a_job_that_takes_too_long_is_ended_and_the_next_one_runs():
    square = np.ones((1500, 1500), np.float32)
    with pytest.raises(LimitError, match="more than 0 s"):
        run_apart(EVALUATE, evaluated("MatMul", square, square), seconds=0.001, memory=1 << 30)
    assert run_apart(INFER, model_of(READERS["Add"][:0], []), **LIMITS)


def test_one_process_answers_many_jobs():
    data = model_of([helper.make_node("Abs", ["x"], ["y"])], [])
    run_apart(INFER_WITH_DATA, data, **LIMITS)
    first = sandbox._WORKER
    for _ in range(5):
        run_apart(INFER_WITH_DATA, data, **LIMITS)
    assert sandbox._WORKER is first


def test_what_is_not_a_model_is_refused():
    with pytest.raises(RefusedError):
        run_apart(EVALUATE, b"\xff\xff", **LIMITS)


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="the system does not count the CPU's seconds")
def test_a_job_has_seconds_of_the_cpu_not_of_the_clock():
    data = model_of([helper.make_node("Abs", ["x"], ["y"])], [])
    run_apart(INFER, data, **LIMITS)
    process = sandbox._WORKER._process
    process.send_signal(signal.SIGSTOP)  # other programs have the CPU
    threading.Timer(1.5, process.send_signal, [signal.SIGCONT]).start()
    assert run_apart(INFER, data, seconds=1, memory=1 << 30)
    assert sandbox._WORKER._process is process


def test_a_job_that_a_signal_ends_does_not_leave_its_answer_to_the_next(monkeypatch):
    data = model_of([helper.make_node("Abs", ["x"], ["y"])], [])
    run_apart(INFER, data, **LIMITS)
    first = sandbox._WORKER

    def interrupted(largest):
        raise SystemExit(143)

    monkeypatch.setattr(first, "_receive", interrupted)
    with pytest.raises(SystemExit):
        run_apart(INFER, data, **LIMITS)
    small = evaluated("Add", np.ones(2, np.float32), np.ones(2, np.float32))
    (tensor,) = onnx.GraphProto.FromString(run_apart(EVALUATE, small, **LIMITS)).initializer
    assert numpy_helper.to_array(tensor).tolist() == [2, 2]
    assert sandbox._WORKER is not first


def test_threads_share_the_process_and_each_gets_its_own_answer():
    def load(length):
        module = qir.load(model_of([helper.make_node("Concat", ["x"] * length, ["y"], axis=0)], []))
        return module.graph.nodes[0].result.type.shape[0]

    lengths = list(range(1, 41))
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(load, lengths)) == lengths


def test_a_job_that_ends_the_process_fails_for_its_thread_alone():
    square = np.ones((1500, 1500), np.float32)
    small = evaluated("Add", np.ones(2, np.float32), np.ones(2, np.float32))

    def run(index):
        if index % 4:
            (tensor,) = onnx.GraphProto.FromString(run_apart(EVALUATE, small, **LIMITS)).initializer
            return numpy_helper.to_array(tensor).tolist() == [2, 2]
        with pytest.raises(LimitError, match="more than 0 s"):
            run_apart(EVALUATE, evaluated("MatMul", square, square), seconds=0.001, memory=1 << 30)
        return True

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(run, range(8)))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system does not fork")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_child_that_a_fork_makes_starts_a_process_of_its_own_even_while_a_thread_has_a_job():
    data = model_of([helper.make_node("Abs", ["x"], ["y"])], [])
    run_apart(INFER, data, **LIMITS)
    with sandbox._LOCK:
        child = os.fork()
        if not child:
            signal.alarm(60)
            os._exit(0 if run_apart(INFER, data, **LIMITS) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert run_apart(INFER, data, **LIMITS)


def test_half_a_million_initializers_of_two_bytes_are_refused_at_the_first():
    nameless = field(GRAPH_INITIALIZER, [b""]) * 500_000
    data = b"".join([onnx.ModelProto(ir_version=10).SerializeToString(), *field(MODEL_GRAPH, nameless)])
    assert len(data) < 1 << 20
    start = time.process_time()
    with pytest.raises(ModelFileError, match="an initializer is without a name"):
        qir.load(data)
    assert time.process_time() - start < 5
