"""Mutations of valid files: of bytes, of ONNX messages, of JSON trees, of lines of text; all from a given generator."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

import onnx
from google.protobuf.message import Message

Mutation = Callable[[bytes, random.Random], bytes]

# -- bytes --------------------------------------------------------------------------------------------------------


def flip_bytes(data: bytes, rng: random.Random) -> bytes:
    out = bytearray(data or b"\0")
    for _ in range(rng.randint(1, 8)):
        out[rng.randrange(len(out))] = rng.randrange(256)
    return bytes(out)


def truncate(data: bytes, rng: random.Random) -> bytes:
    return data[: rng.randrange(len(data) or 1)]


def splice(data: bytes, rng: random.Random) -> bytes:
    start, length = rng.randrange(len(data) or 1), rng.randint(1, 64)
    return data[:start] + rng.randbytes(rng.randint(0, 64)) + data[start + length :]


def write_number(data: bytes, rng: random.Random) -> bytes:
    """A length, offset or count in a header becomes absurd."""
    size = rng.choice([1, 2, 4, 8])
    number = rng.choice([0, 1, 127, 255, 2**15, 2**16 - 1, 2**31 - 1, 2**32 - 1, 2**40, 2**63 - 1, 2**64 - 1])
    at = rng.randrange(max(1, min(len(data), 256)))
    return data[:at] + (number % 256**size).to_bytes(size, rng.choice(["little", "big"])) + data[at + size :]


BYTES: tuple[Mutation, ...] = (flip_bytes, truncate, splice, write_number)

# -- ONNX ---------------------------------------------------------------------------------------------------------

OPS = ("Conv", "Reshape", "If", "Loop", "Split", "Gather", "ConvTranspose", "Resize", "TopK", "Einsum", "", "Nope",
       "QuantizeLinear", "DequantizeLinear", "Gemm", "MatMul", "Add", "Pad", "Slice", "Concat", "Expand", "Tile",
       "Clip", "ConstantOfShape", "Range", "OneHot", "NonZero", "CumSum", "LSTM", "Softmax",
       "BatchNormalization")  # fmt: skip


def _messages(message: Message) -> list[Message]:
    found = [message]
    for field, value in message.ListFields():
        if field.message_type is not None:
            for each in [value] if isinstance(value, Message) else value:
                found += _messages(each)
    return found


def _edit(edit: Callable[[onnx.ModelProto, random.Random], None]) -> Mutation:
    def mutate(data: bytes, rng: random.Random) -> bytes:
        proto = onnx.ModelProto.FromString(data)
        for _ in range(rng.randint(1, 3)):
            edit(proto, rng)
        return proto.SerializeToString()

    return mutate


def _drop_field(proto: onnx.ModelProto, rng: random.Random) -> None:
    message = rng.choice(_messages(proto))
    if fields := message.ListFields():
        message.ClearField(rng.choice(fields)[0].name)


def _change_number(proto: onnx.ModelProto, rng: random.Random) -> None:
    """Absurd shapes, wrong types, wrong attribute values."""
    message = rng.choice(_messages(proto))
    numbers = [
        (f, v) for f, v in message.ListFields() if f.cpp_type in {f.CPPTYPE_INT32, f.CPPTYPE_INT64, f.CPPTYPE_ENUM}
    ]
    if not numbers:
        return
    field, value = rng.choice(numbers)
    wide = field.cpp_type == field.CPPTYPE_INT64
    choices = [0, 1, -1, 2, 99, 2**31 - 1, *([2**62, -(2**63), 2**40] if wide else [])]
    if field.cpp_type == field.CPPTYPE_ENUM:
        choices = [v.number for v in field.enum_type.values]
    if isinstance(value, int):
        setattr(message, field.name, rng.choice(choices))
    elif len(value):
        value[rng.randrange(len(value))] = rng.choice(choices)


def _change_float(proto: onnx.ModelProto, rng: random.Random) -> None:
    """Scales and weights that are not finite, negative, or tiny."""
    tensors = [m for m in _messages(proto) if isinstance(m, onnx.TensorProto) and m.data_type == onnx.TensorProto.FLOAT]
    if not tensors:
        return
    tensor = rng.choice(tensors)
    array = onnx.numpy_helper.to_array(tensor).copy()
    if array.size:
        array.reshape(-1)[rng.randrange(array.size)] = rng.choice(
            [float("nan"), float("inf"), -1.0, 0.0, 1e-45, 3e38, -3e38]
        )
        name = tensor.name
        tensor.CopyFrom(onnx.numpy_helper.from_array(array, name))


def _change_name(proto: onnx.ModelProto, rng: random.Random) -> None:
    """Dangling names, duplicate names, cycles."""
    nodes = [m for m in _messages(proto) if isinstance(m, onnx.NodeProto)]
    names = [name for node in nodes for name in (*node.input, *node.output)] + ["", "no such value"]
    if nodes:
        node = rng.choice(nodes)
        target = rng.choice([node.input, node.output])
        if len(target):
            target[rng.randrange(len(target))] = rng.choice(names)


def _change_text(proto: onnx.ModelProto, rng: random.Random) -> None:
    """Metadata, names of attributes, modes: any text."""
    texts = [
        (m, f.name)
        for m in _messages(proto)
        for f, v in m.ListFields()
        if f.cpp_type == f.CPPTYPE_STRING and isinstance(v, str)
    ]
    if texts:
        message, name = rng.choice(texts)
        setattr(message, name, rng.choice(["", "\x1b[31m\n", "{}", "[]", "nan", "x" * 5000, "1" * 5000, "../../etc"]))


def _shuffle_nodes(proto: onnx.ModelProto, rng: random.Random) -> None:
    nodes = list(proto.graph.node)
    rng.shuffle(nodes)
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)


def _duplicate(proto: onnx.ModelProto, rng: random.Random) -> None:
    message = rng.choice(_messages(proto))
    repeated = [v for f, v in message.ListFields() if f.message_type is not None and not isinstance(v, Message)]
    if repeated:
        field = rng.choice(repeated)
        field.add().CopyFrom(rng.choice(list(field)))


def _swap_op(proto: onnx.ModelProto, rng: random.Random) -> None:
    nodes = [m for m in _messages(proto) if isinstance(m, onnx.NodeProto)]
    if nodes:
        rng.choice(nodes).op_type = rng.choice(OPS)


MESSAGES: tuple[Mutation, ...] = tuple(
    map(
        _edit,
        (
            _drop_field,
            _change_number,
            _change_float,
            _change_name,
            _change_text,
            _shuffle_nodes,
            _duplicate,
            _swap_op,
        ),
    )
)

MUTATIONS: tuple[Mutation, ...] = (flip_bytes, truncate, splice, *MESSAGES)
"""What happens to ONNX files."""

# -- JSON ---------------------------------------------------------------------------------------------------------

DEEP: Any = [[[[[]]]]]
ODD: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2, 3, 255, 2**31, -(2**63), 2**63, 10**39, 10**60, 0.5, -0.0, 1e-320, 1e308,
    float("nan"), float("inf"), float("-inf"), "", "x", "0", "1e999", "nan", "\x1b[31m\n", "\ud800", "../x",
    "/etc/passwd", "int8", [], {}, [1], [[1]], {"x": 1}, DEEP, [None], [0.5, "x"], "x" * 3000,
)  # fmt: skip


def _places(tree: Any) -> list[tuple[Any, Any]]:
    """Every (container, key) of a JSON tree."""
    keys = list(tree) if isinstance(tree, dict) else list(range(len(tree))) if isinstance(tree, list) else []
    return [place for key in keys for place in [(tree, key), *_places(tree[key])]]


def change_json(data: bytes, rng: random.Random) -> bytes:
    """Values of other kinds, missing and doubled entries, entries in places of others."""
    tree = [json.loads(data)]
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        places = _places(tree)
        container, key = rng.choice(places)
        action = rng.randrange(6)
        if action <= 2:
            container[key] = rng.choice(ODD)
        elif action == 3:
            other, name = rng.choice(places)
            container[key] = json.loads(json.dumps(other[name]))
        elif isinstance(container, dict) and action == 4:
            container[rng.choice(["", "x", "name", "version"])] = container.pop(key)
        elif container is not tree:
            del container[key]
            if not tree:
                break
    return json.dumps(tree[0] if tree else None).encode()


def nest_json(data: bytes, rng: random.Random) -> bytes:
    """Lists that nest deeply, integers of thousands of digits."""
    text = data.decode(errors="replace")
    at = rng.randrange(len(text) or 1)
    depth = rng.choice([70, 1000, 100_000])
    inner = rng.choice(["[" * depth + "]" * depth, '{"a":' * depth + "1" + "}" * depth, "9" * 5000])
    return (text[:at] + inner + text[at:]).encode()


JSON: tuple[Mutation, ...] = (
    change_json,
    change_json,
    change_json,
    change_json,
    flip_bytes,
    truncate,
    splice,
    nest_json,
)

# -- text ---------------------------------------------------------------------------------------------------------

WORDS = ("-1", "0", "1", "2", "9" * 30, "9" * 5000, "1e999", "nan", "inf", "-inf", "0x10", "1_000", "True", "None",
         "é", "\u202e", "\x1b[31m", "\0", '"', "'", "{", "}", "[", "]", "(", ")", "<", ">", "%", ",", ";", "=", ":",
         "\\", "?", "tensor<[2]xfloat32>", "float32", "\t", "\r", "[" * 2000, "(" * 2000, "<" * 2000)  # fmt: skip

NUMBERS = ("0", "1", "2", "3", "5", "7", "9", "16", "33", "64", "99", "-1", "65535", "2147483648",
           "9223372036854775807", "9223372036854775808", "9" * 25, "1e5", "0.5", "")  # fmt: skip


def _tokens(text: str) -> list[str]:
    """Words, numbers and marks; together they are the text."""
    found: list[str] = []
    for character in text:
        kind = character.isalnum() or character in "._-"
        if found and kind and (found[-1][-1].isalnum() or found[-1][-1] in "._-"):
            found[-1] += character
        else:
            found.append(character)
    return found


def change_words(data: bytes, rng: random.Random) -> bytes:
    """Words replaced by odd ones or by others of the text, left out, or doubled."""
    tokens = _tokens(data.decode(errors="replace")) or [""]
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        at = rng.randrange(len(tokens))
        tokens[at] = rng.choice([rng.choice(WORDS), rng.choice(WORDS), rng.choice(tokens), "", tokens[at] * 2])
    return "".join(tokens).encode(errors="replace")


def change_lines(data: bytes, rng: random.Random) -> bytes:
    """Lines left out, doubled, moved."""
    lines = data.decode(errors="replace").split("\n")
    for _ in range(rng.choice([1, 1, 2])):
        line = lines.pop(rng.randrange(len(lines))) if len(lines) > 1 else lines[0]
        for _ in range(rng.randrange(3)):
            lines.insert(rng.randrange(len(lines) + 1), line)
    return "\n".join(lines).encode(errors="replace")


def change_number(data: bytes, rng: random.Random) -> bytes:
    """One number becomes another: what the text says stays of its form."""
    tokens = _tokens(data.decode(errors="replace"))
    places = [index for index, token in enumerate(tokens) if any(character.isdigit() for character in token)]
    if not places:
        return change_words(data, rng)
    at = rng.choice(places)
    digits = [index for index, character in enumerate(tokens[at]) if character.isdigit()]
    start = rng.choice(digits)
    tokens[at] = tokens[at][:start] + rng.choice(NUMBERS) + tokens[at][start + 1 :]
    return "".join(tokens).encode(errors="replace")


TEXT: tuple[Mutation, ...] = (
    *[change_words] * 2, *[change_number] * 3, change_lines, flip_bytes, truncate, splice,
)  # fmt: skip


def mutated(data: bytes, mutations: tuple[Mutation, ...], rng: random.Random) -> bytes:
    """One mutation of a file; of bytes where it is not of the form that a mutation needs."""
    try:
        return rng.choice(mutations)(data, rng)
    except (ValueError, UnicodeError, RecursionError, TypeError, onnx.checker.ValidationError):
        return flip_bytes(data, rng)
