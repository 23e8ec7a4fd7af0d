"""Mutations of valid model files, and a harness that survives whatever reading them does."""

from __future__ import annotations

import faulthandler
import multiprocessing
import random
import traceback
from collections.abc import Callable

import onnx
from google.protobuf.message import Message

MUTATION_SECONDS = 20


def flip_bytes(data: bytes, rng: random.Random) -> bytes:
    out = bytearray(data)
    for _ in range(rng.randint(1, 8)):
        out[rng.randrange(len(out))] = rng.randrange(256)
    return bytes(out)


def truncate(data: bytes, rng: random.Random) -> bytes:
    return data[: rng.randrange(len(data))]


def splice(data: bytes, rng: random.Random) -> bytes:
    start, length = rng.randrange(len(data)), rng.randint(1, 64)
    return data[:start] + rng.randbytes(rng.randint(0, 64)) + data[start + length :]


def _messages(message: Message) -> list[Message]:
    found = [message]
    for field, value in message.ListFields():
        if field.message_type is not None:
            for each in [value] if isinstance(value, Message) else value:
                found += _messages(each)
    return found


def _edit(edit: Callable[[onnx.ModelProto, random.Random], None]) -> Callable[[bytes, random.Random], bytes]:
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


def _change_name(proto: onnx.ModelProto, rng: random.Random) -> None:
    """Dangling names, duplicate names, cycles."""
    nodes = [m for m in _messages(proto) if isinstance(m, onnx.NodeProto)]
    names = [name for node in nodes for name in (*node.input, *node.output)] + ["", "no such value"]
    if nodes:
        node = rng.choice(nodes)
        target = rng.choice([node.input, node.output])
        if len(target):
            target[rng.randrange(len(target))] = rng.choice(names)


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
        rng.choice(nodes).op_type = rng.choice(
            [
                "Conv",
                "Reshape",
                "If",
                "Loop",
                "Split",
                "Gather",
                "ConvTranspose",
                "Resize",
                "TopK",
                "Einsum",
                "",
                "Nope",
            ]
        )


MUTATIONS = [
    flip_bytes,
    truncate,
    splice,
    *map(_edit, (_drop_field, _change_number, _change_name, _shuffle_nodes, _duplicate, _swap_op)),
]


def _watch(check: Callable[[bytes], str], jobs: list[bytes], pipe: object) -> None:
    for job in jobs:
        faulthandler.dump_traceback_later(MUTATION_SECONDS, exit=True)
        try:
            outcome = check(job)
        except BaseException:  # noqa: BLE001 - any exception that is not a QirError is the finding
            outcome = "ESCAPED " + traceback.format_exc()[-1500:]
        faulthandler.cancel_dump_traceback_later()
        pipe.send(outcome)  # type: ignore[attr-defined]


def run_isolated(check: Callable[[bytes], str], jobs: list[bytes]) -> list[str]:
    """The outcome of `check` on each job; `CRASHED` where the process died or hung."""
    context = multiprocessing.get_context("fork")
    outcomes: list[str] = []
    while len(outcomes) < len(jobs):
        receive, send = context.Pipe(duplex=False)
        process = context.Process(target=_watch, args=(check, jobs[len(outcomes) :], send))
        process.start()
        send.close()
        try:
            while len(outcomes) < len(jobs):
                outcomes.append(receive.recv())
        except EOFError:
            outcomes.append("CRASHED")
        process.join()
    return outcomes
