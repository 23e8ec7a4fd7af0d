"""The proof of exported C: compiled here, and every output code compared with the integer reference."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from qir.backends.integer.reference import IntegerReference
from qir.errors import ExportError
from qir.guide import Guide, SourceGuide
from qir.module import Module
from qir.passes.data.batch_axes import Feed
from qir.passes.data.samples import samples_of
from qir.passes.exporting.c99.build import compiler, run_codes, self_test
from qir.passes.exporting.c99.generate import Sources, c_sources
from qir.passes.exporting.c99.program import Port
from qir.passes.exporting.c99.reading import required
from qir.passes.exporting.guide.reader import GuideReader
from qir.passes.parity.executors import code_forms
from qir.tensor import Array


@dataclass(frozen=True)
class ProvenSources:
    """C of a network that was compared.

    Attributes:
        files: texts by name: header, source, self-test.
        entry: what was proven, for the guide.
    """

    files: dict[str, str]
    entry: SourceGuide


def proven_sources(module: Module, guide: Guide, weights: bytes, name: str, feeds: Sequence[Feed]) -> ProvenSources:
    """C99 of a network, compiled and compared where the machine has a compiler.

    Args:
        module: the network with its fake-quant nodes.
        guide: its guide, with dyadic multipliers.
        weights: content of the guide's weights file.
        name: what the files are called.
        feeds: batches of samples.

    Raises:
        ExportError: a step has no kernel, the compiler refuses the source, or a code differs.
    """
    sources = c_sources(guide, weights, name)
    inputs, outputs = _expected(module, guide, GuideReader(guide, weights), sources, feeds)
    tool = compiler()
    if tool is not None:
        with tempfile.TemporaryDirectory() as folder:
            _compare(sources, run_codes(sources, inputs, Path(folder)), outputs)
    files = {f"{sources.name}.h": sources.header, f"{sources.name}.c": sources.source}
    files[f"{sources.name}_test.c"] = self_test(sources, inputs[0], outputs[0])
    entry = SourceGuide(
        files=list(files),
        function=f"{sources.name}_run",
        compiler="" if tool is None else Path(tool).name,
        samples=0 if tool is None else len(inputs),
        codes=0 if tool is None else sum(codes.size for sample in outputs for codes in sample),
        arena_bytes=sources.arena,
        scratch_bytes=sources.scratch,
    )
    return ProvenSources(files, entry)


def _expected(
    module: Module, guide: Guide, reader: GuideReader, sources: Sources, feeds: Sequence[Feed]
) -> tuple[list[list[Array]], list[list[Array]]]:
    """Return codes of the inputs and outputs of every sample, as the integer reference computes them."""
    reference = IntegerReference(next(code_forms(module)), requantization=guide.requantization.kind)
    names = [port.name for port in guide.outputs]
    inputs, outputs = [], []
    for feed in (one for batch in feeds for one in _single(guide, batch)):
        run = reference.run(feed)
        inputs.append([run.codes[port.tensor.name] for port in sources.inputs])
        pairs = zip(sources.outputs, names, strict=True)
        outputs.append([_codes(reader, port, run.outputs[name]) for port, name in pairs])
    return inputs, outputs


def _single(guide: Guide, feed: Feed) -> list[dict[str, Any]]:
    """Return samples in the shapes of the guide."""
    first = guide.inputs[0]
    if list(feed[first.name].shape) == first.shape:
        return [dict(feed)]
    return [{name: array[index : index + 1] for name, array in feed.items()} for index in range(samples_of(feed))]


def _codes(reader: GuideReader, port: Port, values: Array) -> Array:
    """Return the codes of dequantized values: exact, since values are multiples of the scale."""
    grid = required(port.tensor.grid, f"output {port.tensor.name!r} no grid")
    scale = required(
        grid.scale[0] if isinstance(grid.scale, list) else None, f"output {port.tensor.name!r} many scales"
    )
    steps = np.rint(values.astype(np.float64) / np.float64(np.float32(scale)))
    return np.asarray(steps.astype(np.int64) + reader.integers(grid.zero_point)[0])


def _compare(sources: Sources, found: Sequence[Sequence[Array]], expected: Sequence[Sequence[Array]]) -> None:
    for index, port in enumerate(sources.outputs):
        pairs = [(one[index], other[index].reshape(-1)) for one, other in zip(found, expected, strict=True)]
        wrong, total = sum(int((a != b).sum()) for a, b in pairs), sum(b.size for _, b in pairs)
        if wrong:
            raise ExportError(
                f"profile 'c99': {wrong:,} of {total:,} codes of output {port.tensor.name!r} differ from the integer "
                "reference in the compiled source: nothing was written"
            )
