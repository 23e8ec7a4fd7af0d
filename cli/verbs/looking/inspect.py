"""`qir inspect`: what a network is made of, what of it can be quantized, and why the rest cannot."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from qir.cli.answers import Answer
from qir.cli.networks import Batch, Shapes, load_sized, network
from qir.cli.options import OptionalTarget

if TYPE_CHECKING:
    from qir.passes.insertion.inspection import Inspection
    from qir.support.terminal import Terminal


def inspect(
    model: Annotated[Path, network("ONNX file")],
    target: OptionalTarget = None,
    shape: Shapes = None,
    batch: Batch = 1,
) -> Answer:
    """Look at a network before any work: ops, sizes, weights, multiply-accumulates, and what can be quantized.

    Layers are those of the simplified network, which is what is quantized: BatchNorm is folded, constants are computed.
    A target's own rules (`quantize` in its file) count where `--target` names one.

    qir inspect lenet

    qir inspect model.onnx --shape input=1,3,224,224 --json
    """
    from qir.passes.insertion.inspection import inspect as look

    found = look(load_sized(model, shape, batch), target)
    more = {"macs": found.macs, "macs_on_codes": found.macs_on_codes}
    return Answer({"model": model, **vars(found), **more}, partial(_show, model, found))


def _show(model: Path, found: Inspection, terminal: Terminal) -> None:
    for what, values in (("input", found.inputs), ("output", found.outputs)):
        for name, tensor in values.items():
            terminal.print(f"{what:8}{name}: {tensor}", soft_wrap=True)
    ops = ", ".join(f"{count} {op}" for op, count in found.ops.items())
    terminal.print(f"{'ops':8}{ops} (opset {found.opset}, {found.constants:,} numbers in {model.name})", soft_wrap=True)
    terminal.print(_layers(found))
    for kind in found.others:
        said = f": {kind.reason}" if kind.reason else ""
        terminal.print(f"{kind.count} {kind.op}, {kind.on_grids} on quantized values{said}", soft_wrap=True)
    if found.refused:
        terminal.print(f"cannot be quantized: {found.refused}", soft_wrap=True)
        return
    terminal.print(
        f"{len(found.quantizers)} tensors get a quantizer; {found.macs_on_codes:.1%} of {found.macs:,} "
        "multiply-accumulates have quantized operands",
        soft_wrap=True,
    )


def _layers(found: Inspection) -> object:
    from rich.table import Table

    table = Table("layer", "op", "input", "output", box=None, pad_edge=False)
    for name in ("weights", "MACs", "share"):
        table.add_column(name, justify="right")
    table.add_column("quantized", overflow="fold")
    for layer in found.layers:
        share = "" if layer.macs is None or not found.macs else f"{layer.macs / found.macs:.1%}"
        partly = f"; float: {layer.reason}" if layer.reason and layer.quantizers else ""
        table.add_row(
            layer.name,
            layer.op,
            layer.input,
            layer.output,
            f"{layer.weights:,}",
            "unknown" if layer.macs is None else f"{layer.macs:,}",
            share,
            f"yes{partly}" if layer.quantizers else f"no: {layer.reason}",
        )
    return table
