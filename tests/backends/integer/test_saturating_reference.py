"""The saturating mode of the integer reference: unsigned times signed codes, added in pairs that clip to int16."""

from __future__ import annotations

import tracemalloc
from itertools import product

import numpy as np
import onnx.parser
import pytest

import qir
from qir.backends.execution.session import OrtSession
from qir.backends.integer.reference import IntegerReference
from qir.backends.integer.requantization import REQUANTIZATIONS
from qir.backends.integer.saturation import lost_in_product
from qir.backends.integer.values import Grid
from qir.passes import PassContext, export
from qir.passes.correction.symmetric_activations import SymmetricActivations

TENSOR = {np.uint8: "uint8", np.int8: "int8"}


def loaded(inputs: str, body: str) -> qir.Module:
    """A network in ONNX's textual form, with opset 17 and a float output y."""
    text = f'<ir_version: 9, opset_import: ["" : 17, "com.microsoft" : 1]> g ({inputs}) => (y) {{ {body} }}'
    return qir.load(onnx.parser.parse_model(text).SerializeToString())


def integers(array) -> str:
    """The values of an array as the textual form spells them."""
    return "{" + ", ".join(str(int(value)) for value in np.ravel(array)) + "}"


def quantized(name: str, source: str, element: type, zero: int) -> str:
    """Codes of a float input on a grid with scale 1."""
    return (
        f"{name}_s = Constant <value = float {{1.0}}> () {name}_z = Constant <value = {TENSOR[element]} {{{zero}}}> () "
        f"{name} = QuantizeLinear ({source}, {name}_s, {name}_z) "
    )


def weight(array: np.ndarray) -> str:
    shape = ", ".join(map(str, array.shape))
    kind = TENSOR[array.dtype.type]
    return f"w = Constant <value = {kind}[{shape}] {integers(array)}> () w_z = Constant <value = {kind} {{0}}> () "


def sums(module: qir.Module, x: np.ndarray, *, saturating: bool = True) -> np.ndarray:
    return IntegerReference(module, saturating=saturating).run({"x": x.astype(np.float32)}).outputs["y"]


def product_of(data: type, codes: np.ndarray, zero: int = 0) -> qir.Module:
    rows = codes.shape[0]
    body = quantized("q", "x", data, zero) + weight(codes) + "y = MatMulInteger (q, w, q_z, w_z)"
    return loaded(f"float[N, {rows}] x", body)


def test_two_products_clip_to_int16_at_both_ends() -> None:
    module = product_of(np.uint8, np.array([[127, -128], [127, -128]], np.int8))
    x = np.array([[255, 255], [255, 3]])
    assert sums(module, x, saturating=False).tolist() == [[64770, -65280], [32766, -33024]]
    assert sums(module, x).tolist() == [[32767, -32768], [32766, -32768]]


def test_an_odd_number_of_products_leaves_the_last_alone() -> None:
    module = product_of(np.uint8, np.full((3, 1), 127, np.int8))
    assert sums(module, np.full((1, 3), 255)).tolist() == [[32767 + 255 * 127]]


def test_zero_points_are_corrected_after_clipping() -> None:
    module = product_of(np.uint8, np.full((2, 1), 127, np.int8), zero=200)
    assert sums(module, np.full((1, 2), 55)).tolist() == [[32767 - 2 * 200 * 127]]


@pytest.mark.parametrize(
    ("data", "element", "clips"),
    [(np.uint8, np.int8, True), (np.uint8, np.uint8, False), (np.int8, np.int8, False), (np.int8, np.uint8, False)],
)
def test_only_unsigned_times_signed_codes_clip(data: type, element: type, clips: bool) -> None:
    module = product_of(data, np.full((4, 2), np.iinfo(element).max, element))
    x = np.full((1, 4), np.iinfo(data).max)
    assert (sums(module, x) != sums(module, x, saturating=False)).all() == clips


def test_weights_of_seven_bits_never_clip() -> None:
    random = np.random.default_rng(0)
    module = product_of(np.uint8, random.choice([-64, 64], (32, 8)).astype(np.int8))
    x = np.full((4, 32), 255)
    assert np.array_equal(sums(module, x), sums(module, x, saturating=False))


def clipped_convolution(x: np.ndarray, w: np.ndarray, groups: int, pad: int, filler: int) -> np.ndarray:
    """Raw codes, pair by pair, in the order [kernel position, channel of the group]."""
    x = np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad)), constant_values=filler).astype(np.int64)
    outer, inner, height, width = w.shape
    shape = (x.shape[0], outer, x.shape[2] - height + 1, x.shape[3] - width + 1)
    found = np.zeros(shape, np.int64)
    for n, o, i, j in product(*map(range, shape)):
        first = o // (outer // groups) * inner
        terms = [
            x[n, first + c, i + a, j + b] * int(w[o, c, a, b])
            for a, b, c in product(range(height), range(width), range(inner))
        ]
        terms += [0] * (len(terms) % 2)
        found[n, o, i, j] = sum(
            int(np.clip(p + q, -32768, 32767)) for p, q in zip(terms[::2], terms[1::2], strict=True)
        )
    return found


@pytest.mark.parametrize(("groups", "inner", "outer"), [(1, 3, 4), (2, 2, 4), (3, 1, 6), (1, 5, 2)])
def test_convolutions_pair_neighbouring_channels_and_pad_with_the_zero_point(groups, inner, outer) -> None:
    random = np.random.default_rng(groups)
    codes = random.integers(-128, 128, (outer, inner, 3, 3)).astype(np.int8)
    bounds = (
        "o_s = Constant <value = float {1000.0}> () o_z = Constant <value = uint8 {128}> () "
        "w_s = Constant <value = float {1.0}> () "
    )
    layer = f"c = QLinearConv <group = {groups}, pads = [1, 1, 1, 1]> (q, q_s, q_z, w, w_s, w_z, o_s, o_z) "
    body = quantized("q", "x", np.uint8, 90) + weight(codes) + bounds + layer
    module = loaded(f"float[N, {groups * inner}, 5, 5] x", body + "y = Cast <to = 6> (c)")
    x = random.integers(0, 256, (2, groups * inner, 5, 5))
    raw = clipped_convolution(x, codes, groups, 1, 90)
    corrected = raw - 90 * codes.astype(np.int64).sum((1, 2, 3)).reshape(-1, 1, 1)
    wanted = np.clip(np.rint(corrected.astype(np.float32) * np.float32(0.001)) + 128, 0, 255)
    assert np.array_equal(sums(module, x - 90), wanted)


def convolution(
    after: str, *, group: int = 1, element: type = np.uint8, data: type = np.uint8, op: str = ""
) -> qir.Module:
    """A 1x1 convolution of extreme codes between DequantizeLinear and QuantizeLinear, or a ConvInteger."""
    codes = np.full((2, 2 // group, 1, 1), np.iinfo(element).max, element)
    if op:
        layer = f"y = {op} <group = {group}> (q, w, q_z, w_z)"
    else:
        layer = (
            "w_s = Constant <value = float {1.0}> () d = DequantizeLinear (q, q_s, q_z) "
            f"v = DequantizeLinear (w, w_s, w_z) c = Conv <group = {group}> (d, v) " + after
        )
    return loaded("float[1, 2, 1, 1] x", quantized("q", "x", data, 0) + weight(codes) + layer)


def clips(module: qir.Module, x: int) -> bool:
    found = [sums(module, np.full((1, 2, 1, 1), x), saturating=mode) for mode in (True, False)]
    return not np.array_equal(*found)


def output(element: type = np.uint8, zero: int = 0) -> str:
    return (
        f"o_s = Constant <value = float {{300.0}}> () o_z = Constant <value = {TENSOR[element]} {{{zero}}}> () "
        "o = QuantizeLinear (r, o_s, o_z) y = DequantizeLinear (o, o_s, o_z) "
    )


@pytest.mark.parametrize(
    ("after", "fused"),
    [
        ("r = Identity (c) y = Relu (r)", False),
        ("r = Relu (c)" + output(), True),
        ("r = Relu (c)" + output(zero=3), False),
        ("s = Constant <value = int64[1] {-1}> () r = Reshape (c, s)" + output(), True),
        ("e = Exp (c) r = Sub (c, e)" + output(), False),
    ],
)
def test_convolutions_clip_only_where_onnx_runtime_fuses_them(after: str, fused: bool) -> None:
    assert clips(convolution(after, element=np.int8), 255) == fused


def test_signed_codes_that_only_a_dequantizer_reads_are_unsigned_to_onnx_runtime() -> None:
    after = output(np.int8).replace("(r,", "(c,")
    assert clips(convolution(after, element=np.int8, data=np.int8), 127)
    shared = after + " k = DequantizeLinear (q, q_s, q_z) y2 = Relu (k)"
    assert not clips(convolution(shared, element=np.int8, data=np.int8), 127)


def test_depthwise_convolutions_are_exact_but_for_convinteger_of_signed_data() -> None:
    after = output().replace("(r,", "(c,")
    assert not clips(convolution(after, group=2, element=np.int8), 255)
    assert not clips(convolution("", op="ConvInteger", element=np.int8), 255)
    assert clips(convolution("", op="ConvInteger", data=np.int8), 127)


@pytest.mark.parametrize("kind", REQUANTIZATIONS)
def test_every_requantization_reads_the_clipped_sums(kind: str) -> None:
    module = convolution(output().replace("(r,", "(c,").replace("300.0", "256.0"), element=np.int8)
    x = np.full((1, 2, 1, 1), 255, np.float32)
    run = IntegerReference(module, requantization=kind, saturating=True).run({"x": x})
    assert np.unique(run.outputs["y"]).tolist() == [128 * 256]


def test_the_cpu_at_hand_computes_the_exact_or_the_clipped_codes() -> None:
    random = np.random.default_rng(1)
    module = product_of(np.uint8, random.integers(-128, 128, (37, 9)).astype(np.int8), zero=50)
    x = random.integers(0, 256, (6, 37)) - 50
    found = OrtSession(module).run({"x": x.astype(np.float32)})["y"]
    assert any(np.array_equal(found, sums(module, x, saturating=mode)) for mode in (True, False))


def test_a_precise_session_computes_the_exact_codes_on_every_cpu() -> None:
    random = np.random.default_rng(2)
    module = product_of(np.uint8, random.integers(-128, 128, (37, 9)).astype(np.int8), zero=50)
    x = random.integers(0, 256, (6, 37)) - 50
    found = OrtSession(module, precise=True).run({"x": x.astype(np.float32)})["y"]
    assert np.array_equal(found, sums(module, x, saturating=False))


def test_products_with_matrices_of_a_batch_clip_one_by_one() -> None:
    random = np.random.default_rng(3)
    one, zero = np.ones((), np.float32), np.zeros((), np.int32)
    left = Grid(random.integers(0, 256, (2, 1, 5, 7)), one, zero)
    right = Grid(random.integers(-128, 128, (3, 7, 4)), one, zero, signed=True)
    found = lost_in_product(left, right)
    assert found.shape == (2, 3, 5, 4)
    for i, j in np.ndindex(2, 3):
        single = lost_in_product(Grid(left.codes[i, 0], one, zero), Grid(right.codes[j], one, zero, signed=True))
        assert np.array_equal(found[i, j], single)
    assert found.any()


def test_memory_stays_near_that_of_the_operands() -> None:
    random = np.random.default_rng(4)
    one, zero = np.ones((), np.float32), np.zeros((), np.int32)
    left = Grid(random.integers(0, 256, (20000, 64)).astype(np.int32), one, zero)
    right = Grid(random.integers(-128, 128, (64, 64)).astype(np.int32), one, zero, signed=True)
    tracemalloc.start()
    lost_in_product(left, right)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 40e6, "all pairs of products at once would be 164 MB"


@pytest.mark.parametrize("profile", ["qcdq", "qoperator"])
def test_exports_of_int8_activations_are_exact_without_vnni_too(random_network, tmp_path, profile: str) -> None:
    """They are stored as uint8, with their weights."""
    network, module = random_network(0, 8, 8)
    SymmetricActivations().run(module, PassContext())
    written = qir.load(export(module, tmp_path / "s.quant.onnx", data=network.images(4), profile=profile).model)
    feeds = {"input": network.images(4)}
    exact, clipped = (IntegerReference(written, saturating=mode).run(feeds).codes for mode in (False, True))
    assert {array.dtype.name for array in exact.values()} == {"uint8"}
    assert all(np.array_equal(array, clipped[name]) for name, array in exact.items())
