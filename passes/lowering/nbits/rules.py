"""What MatMulNBits computes slowly, wrongly or not at all, checked before a file is written: each with its remedy.

Measured with ONNX Runtime 1.31.1 on x86 with AVX2, where no other source is named.
"""

from __future__ import annotations

from collections.abc import Iterator

from qir.fake_quant import FakeQuant
from qir.granularity import PerBlock
from qir.graph import Graph
from qir.passes.lowering.holdings import Legalization
from qir.passes.lowering.profiles.profiles import version_number

BLOCKS = {2: (32, 64, 128), 4: (16, 32, 64, 128, 256), 8: (16, 32, 64, 128, 256)}
"""Sizes of blocks by the width of the codes in memory whose sums run on integers. Of other powers of two 2 bits run in
float, 50 times slower, and 512 gives zeros (microsoft/onnxruntime#28551)."""

TWO_BITS_SINCE = "1.31"
"""First version of ONNX Runtime with fast kernels for 2 bits; 1.27 takes 3,397 to 8,047 us where 1.31 takes 60."""


def breaches(graph: Graph, found: Legalization) -> Iterator[str]:
    """Yield every rule that a network with fake-quant nodes breaks, and what to do, one sentence each."""
    for quantizer in map(FakeQuant, graph.fake_quants()):
        if quantizer.is_weight and any(user.op == "MatMul" for user in quantizer.result.users):
            yield from _of_weight(quantizer, found)


def _of_weight(quantizer: FakeQuant, found: Legalization) -> Iterator[str]:
    holding, granularity = found.holdings[quantizer.name], quantizer.granularity
    if holding.codes is None:
        return
    bits = holding.container.bits
    if isinstance(granularity, PerBlock) and granularity.size not in BLOCKS[bits]:
        sizes = ", ".join(map(str, BLOCKS[bits]))
        yield f"weight {quantizer.name!r}: blocks of {granularity.size} have no kernel at {bits} bits: take {sizes}"
    if bits == 4 and holding.codes.zero_point.any():
        yield (
            f"weight {quantizer.name!r}: 4 bits with zero points are computed wrongly for one row on x86 CPUs with "
            "AVX2 alone (microsoft/onnxruntime#29853): weight_scheme=uniform has none"
        )
    if bits == 2 and version_number(found.runtime.since) < version_number(TWO_BITS_SINCE):
        yield (
            f"weight {quantizer.name!r}: ONNX Runtime before {TWO_BITS_SINCE} computes 2 bits 50 times slower: install "
            "a newer one, or take 4 bits"
        )
