"""Files: errors that name the remedy, atomic writes, external data, quantizers, names of outputs."""

import mmap
import os

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from qir.errors import ModelFileError, QirError
from qir.fake_quant import FakeQuant, make_fake_quant
from qir.onnx_io import infer_types, load, save, to_bytes, to_proto
from qir.onnx_io.protos.wire import field
from qir.tensor import Tensor, numpy_dtype
from qir.types import DType


def _info(name, shape=(1, 4)):
    return helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, list(shape))


def _model(nodes, tensors=(), outputs=("y",), inputs=("x",)):
    graph = helper.make_graph(nodes, "g", [_info(n) for n in inputs], [_info(n) for n in outputs], list(tensors))
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def _chain():
    weight = numpy_helper.from_array(np.arange(4, dtype=np.float32).reshape(1, 4), "w")
    return _model([helper.make_node("Add", ["x", "w"], ["h"]), helper.make_node("Relu", ["h"], ["y"])], [weight])


def _load(proto):
    return load(proto.SerializeToString())


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "graph"),
        (b"this is not a model at all", r"damaged|truncated|no ONNX"),
        (_chain().SerializeToString()[:-7], "truncated"),
        (onnx.ModelProto(ir_version=10).SerializeToString(), "empty"),
    ],
)
def test_bytes_that_are_not_model_are_refused(data, words):
    with pytest.raises(ModelFileError, match=words):
        load(data)


def test_missing_files_and_folders_are_refused(tmp_path):
    with pytest.raises(ModelFileError, match=r"missing\.onnx"):
        load(tmp_path / "missing.onnx")
    with pytest.raises(ModelFileError, match="is not a file"):
        load(tmp_path)
    module = _load(_chain())
    (tmp_path / "file").touch()
    with pytest.raises(ModelFileError, match="is not a folder"):
        save(module, tmp_path / "file" / "m.onnx")
    with pytest.raises(ModelFileError, match="folder"):
        save(module, tmp_path)


_CYCLE = [
    helper.make_node("Add", ["x", "b"], ["a"]),
    helper.make_node("Add", ["x", "a"], ["b"]),
    helper.make_node("Relu", ["a"], ["y"]),
]


@pytest.mark.parametrize(
    ("nodes", "words"),
    [
        ([helper.make_node("Relu", ["nowhere"], ["y"])], "nowhere"),
        ([helper.make_node("Relu", ["x"], ["other"])], "'y'"),
        ([helper.make_node("Relu", ["x"], ["y"]), helper.make_node("Abs", ["x"], ["y"])], "twice"),
        ([helper.make_node("Split", ["x"], ["y", "y"], num_outputs=2)], "twice"),
        (_CYCLE, "cycle"),
        ([helper.make_node("return", ["x"], ["y"], domain="qir")], "return"),
        ([helper.make_node("fake_quant", ["x"], ["y"], domain="qir", bits="four")], "quantizer"),
    ],
    ids=["dangling", "output", "twice", "twice in one", "cycle", "return", "quantizer"],
)  # fmt: skip
def test_broken_graphs_are_refused(nodes, words):
    with pytest.raises(QirError, match=words):
        _load(_model(nodes))


def test_nodes_in_a_wrong_order_are_sorted():
    proto = _chain()
    nodes = list(proto.graph.node)[::-1]
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)
    assert [node.op for node in _load(proto).graph] == ["Add", "Relu"]


def test_names_that_are_not_utf8_are_refused():
    data = _chain().SerializeToString().replace(b"Relu", b"\xff\xfe\xfd\xfc")
    with pytest.raises(ModelFileError, match="UTF-8"):
        load(data)


def test_graphs_nested_without_end_are_refused():
    graph = b"".join(field(2, [b"g"]))
    for _ in range(3000):
        attribute = b"".join(field(6, [graph]))
        node = b"".join(field(5, [attribute]))
        graph = b"".join(field(1, [node]))
    with pytest.raises(ModelFileError, match="nested"):
        load(b"".join(field(7, [graph])))


def test_untouched_tensors_are_written_byte_for_byte_and_unread():
    proto = _chain()
    proto.graph.initializer[0].ClearField("raw_data")
    proto.graph.initializer[0].float_data.extend([1, 2, 3, 4])
    module = _load(proto)
    written = onnx.ModelProto.FromString(to_bytes(module))
    assert written.graph.initializer[0].SerializeToString() == proto.graph.initializer[0].SerializeToString()
    assert not module.graph.constants[0].constant.is_read


@pytest.mark.parametrize("dtype", [d for d in DType if d not in (DType.UNDEFINED, DType.STRING)], ids=str)
def test_every_element_type_survives(dtype, tmp_path):
    rng = np.random.default_rng(0)
    array = rng.integers(dtype is DType.FLOAT8E8M0, 2, (3, 5)).astype(np.int8).astype(numpy_dtype(dtype))
    module = _load(_chain())
    module.graph.add_constant("made", Tensor.of(array))
    save(module, tmp_path / "m.onnx")
    found = {v.name: v for v in load(tmp_path / "m.onnx").graph.constants}["made"].constant
    assert found.dtype is dtype
    assert found.numpy().tobytes() == array.tobytes()
    stored = onnx.load(tmp_path / "m.onnx").graph.initializer[-1]
    assert np.array_equal(numpy_helper.to_array(stored).astype(array.dtype), array)


def test_negative_int4_codes_survive():
    array = np.arange(-8, 7, dtype=np.int8).astype(numpy_dtype(DType.INT4))
    module = _load(_chain())
    module.graph.add_constant("codes", Tensor.of(array))
    assert np.array_equal(load(to_bytes(module)).graph.constants[-1].constant.numpy(), array)


# -- external data --------------------------------------------------------------------------------------------------


def _external(tmp_path, location="weights.bin", data=b"\0" * 16, **entries):
    if data is not None:
        (tmp_path / "weights.bin").write_bytes(data)
    proto = _chain()
    tensor = proto.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, value in {"location": location, **entries}.items():
        tensor.external_data.add(key=key, value=value)
    path = tmp_path / "m.onnx"
    path.write_bytes(proto.SerializeToString())
    return path


def data_name(model, folder):
    """The name of a model's only data file."""
    (path,) = folder.glob(f"{model}.*.data")
    return path.name


def test_external_data_are_mapped_and_stay_external(tmp_path):
    values = np.arange(1000, dtype=np.float32)
    module = _load(_chain())
    module.graph.add_constant("large", Tensor.of(values))
    save(module, tmp_path / "m.onnx", external=True)
    assert sorted(p.name for p in (tmp_path).iterdir()) == ["m.onnx", data_name("m.onnx", tmp_path)]
    again = load(tmp_path / "m.onnx")
    large = again.graph.constants[-1].constant
    assert not large.is_read
    save(again, tmp_path / "m.onnx")  # over the file that is mapped
    assert np.array_equal(large.numpy(), values)
    (tmp_path / "other").mkdir()
    save(load(tmp_path / "m.onnx"), tmp_path / "other" / "n.onnx")
    (tmp_path / data_name("m.onnx", tmp_path)).unlink()
    assert np.array_equal(load(tmp_path / "other" / "n.onnx").graph.constants[-1].constant.numpy(), values)
    assert sorted(p.name for p in (tmp_path / "other").iterdir()) == ["n.onnx", data_name("n.onnx", tmp_path / "other")]
    onnx.checker.check_model(str(tmp_path / "other" / "n.onnx"))


def test_large_models_are_mapped_and_can_be_replaced(tmp_path, monkeypatch):
    monkeypatch.setattr("qir.onnx_io.files.MAPPED_FROM", 1)
    values = np.arange(100_000, dtype=np.float32)
    module = _load(_chain())
    module.graph.add_constant("large", Tensor.of(values))
    save(module, tmp_path / "m.onnx")
    again = load(tmp_path / "m.onnx")
    large = again.graph.constants[-1].constant
    assert isinstance(large.source.raw.obj, mmap.mmap)
    array = large.numpy()
    large.release()
    assert np.array_equal(array, values)
    save(again, tmp_path / "m.onnx")  # over the file that is mapped
    large.release()
    assert np.array_equal(array, values)
    assert np.array_equal(load(tmp_path / "m.onnx").graph.constants[-1].constant.numpy(), values)


@pytest.mark.parametrize("location", ["../weights.bin", "/etc/hostname", "a/../../weights.bin", "", "a\0b"])
def test_external_data_outside_the_folder_are_refused(tmp_path, location):
    folder = tmp_path / "model"
    folder.mkdir()
    (tmp_path / "weights.bin").write_bytes(b"\0" * 16)
    with pytest.raises(ModelFileError, match="inside the model's folder"):
        load(_external(folder, location, None))


def test_links_that_leave_the_folder_are_refused(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    (tmp_path / "secret").write_bytes(b"\0" * 16)
    (folder / "weights.bin").symlink_to(tmp_path / "secret")
    with pytest.raises(ModelFileError, match="outside the model's folder"):
        load(_external(folder, data=None))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"data": None}, "missing"),
        ({"data": b"\0" * 15}, "15"),
        ({"offset": "8"}, "8"),
        ({"offset": "-1"}, "byte count"),
        ({"length": "1" * 30}, "byte count"),
    ],
)
def test_broken_external_data_are_refused(tmp_path, arguments, words):
    with pytest.raises(ModelFileError, match=words):
        load(_external(tmp_path, **arguments))


def test_pipes_are_not_opened(tmp_path):
    os.mkfifo(tmp_path / "weights.bin")
    with pytest.raises(ModelFileError, match="regular"):
        load(_external(tmp_path, data=None))


def test_a_failed_save_leaves_the_old_file_and_no_others(tmp_path):
    path = tmp_path / "m.onnx"
    module = _load(_chain())
    save(module, path)
    before = path.read_bytes()
    module.graph.constants[0].constant = Tensor(DType.FLOAT32, (1, 4))  # no values
    with pytest.raises(QirError):
        save(module, path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["m.onnx"]


# -- what qir adds --------------------------------------------------------------------------------------------------


def test_quantizers_come_back(tmp_path):
    module = _load(_chain())
    graph = module.graph
    relu = graph.nodes[1]
    quantizer = make_fake_quant(relu.input(0), name="q", bits=4, widths=(2, 4, 8), signed=True)
    graph.insert(quantizer, before=relu)
    relu.set_input(0, quantizer.result)
    FakeQuant(quantizer).calibration = np.array([[[-1, 1]]] * 3, np.float32)
    save(module, tmp_path / "m.onnx")
    again = load(tmp_path / "m.onnx")
    found = again.graph.nodes[1]
    assert again.opsets["qir"] == 1
    assert found.is_fake_quant
    assert str(found.result.type) == str(quantizer.result.type)
    assert to_bytes(again) == (tmp_path / "m.onnx").read_bytes()
    again.graph.nodes[2].result.type = type(again.graph.nodes[2].result.type)(DType.FLOAT32, None)
    infer_types(again)
    assert str(again.graph.nodes[2].result.type) == "tensor<[1,4]xfloat32>"


def test_outputs_keep_their_names_whatever_the_values_are_called():
    module = _load(_chain())
    relu = module.graph.nodes[1]
    relu.result.replace_all_uses_with(relu.input(0))
    module.graph.erase(relu)
    proto = to_proto(module)
    assert [list(n.output) for n in proto.graph.node] == [["y"]]
    assert module.graph.outputs[0].name == "h"
    module.graph.outputs[0].replace_all_uses_with(module.graph.inputs[0])
    last = to_proto(module).graph.node[-1]
    assert (last.op_type, list(last.input), list(last.output)) == ("Identity", ["x"], ["y"])


def test_an_outputs_name_that_another_value_has_is_freed():
    module = _load(_chain())
    add, _ = module.graph.nodes
    module.graph.set_outputs([add.result], ["y"])
    proto = to_proto(module)
    onnx.checker.check_model(proto)
    assert proto.graph.node[0].output[0] == "y"
    assert proto.graph.node[1].output[0] != "y"


def test_inferred_types_are_not_written():
    proto = _chain()
    module = _load(proto)
    assert str(module.graph.nodes[0].result.type) == "tensor<[1,4]xfloat32>"
    assert not to_proto(module).graph.value_info


@pytest.mark.named_nodes
def test_captured_values_are_uses():
    branch = helper.make_graph([helper.make_node("Relu", ["h"], ["z"])], "branch", [], [_info("z")])
    nodes = [
        helper.make_node("Abs", ["x"], ["h"]),
        helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=branch),
    ]
    proto = _model(nodes, inputs=("x", "c"))
    module = _load(proto)
    assert [str(user.op) for user in module.graph.nodes[0].result.users] == ["Relu", "Relu"]
    assert to_proto(module).graph.node == proto.graph.node


def test_two_operator_sets_of_one_domain_are_refused():
    proto = _chain()
    proto.opset_import.add(domain="ai.onnx", version=13)
    with pytest.raises(ModelFileError, match="versions"):
        _load(proto)


def test_long_vectors_are_not_taken_for_shapes():
    nodes = [helper.make_node("Add", ["x", "x"], ["h"]), helper.make_node("Relu", ["h"], ["y"])]
    infos = [_info("x", (2**40,))], [_info("y", ("n",))]
    graph = helper.make_graph(nodes, "g", *infos)
    module = _load(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10))
    assert module.graph.nodes[0].result.type.shape == (2**40,)
