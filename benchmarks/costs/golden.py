"""Golden checks: cost models against published tables; one line a check, exit code 1 if one fails.

python benchmarks golden-costs [--measured]

Each check is a function that yields (holds, line). Others append theirs to `CHECKS`.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize
from scipy.stats import spearmanr

from qir.backends import ConvShape, cost_table, load_target
from qir.passes import run_passes

if TYPE_CHECKING:
    from qir.module import Module

Line = tuple[bool, str]
Floats = npt.NDArray[np.float64]

APQ_CLOCK_HZ = 5e8
ENERGY_SPLIT = 7
"""Every seventh entry fits the energy constants; the others test them."""

POLICIES = 500_000
"""Policies in the measurement of throughput."""


def golden(name: str) -> Any:
    """A published table, or None where it is absent."""
    folder = Path(os.environ.get("QIR_GOLDEN", Path(__file__).resolve().parents[3] / "shared" / "golden"))
    path = folder / name
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def mobilenet_v2(batch: int) -> list[ConvShape]:
    """The 53 layers of MobileNetV2 at 224x224 (Sandler et al. 2018, table 2)."""
    layers = [ConvShape(3, 32, 224, 224, (3, 3), (2, 2), (1, 1), batch=batch)]
    channels, size = 32, 112
    stages = [(1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)]
    for expansion, outputs, repeats, first_stride in stages:
        for repeat in range(repeats):
            stride = first_stride if repeat == 0 else 1
            hidden = channels * expansion
            if expansion > 1:
                layers.append(ConvShape(channels, hidden, size, size, batch=batch))
            layers.append(
                ConvShape(hidden, hidden, size, size, (3, 3), (stride, stride), (1, 1), groups=hidden, batch=batch)
            )
            size //= stride
            layers.append(ConvShape(hidden, outputs, size, size, batch=batch))
            channels = outputs
    layers.append(ConvShape(320, 1280, size, size, batch=batch))
    layers.append(ConvShape(1280, 1000, 1, 1, batch=batch, fully_connected=True))
    return layers


def haq_bit_serial() -> Iterator[Line]:
    """The bit-serial model against HAQ's latency table of MobileNetV2 (batch 16)."""
    data = golden("haq_mobilenetv2_latency_lut.json")
    if data is None:
        yield True, "HAQ MobileNetV2: skipped, the published table is absent"
        return
    published = np.array(data["table"], np.float64)
    model = load_target("bismo-16x16x256").cost_model()
    ours = np.array(
        [
            [[model.layer_cost(shape, w, a).cycles for a in range(1, 9)] for w in range(1, 9)]
            for shape in mobilenet_v2(batch=16)
        ]
    )
    totals = ours.sum(0) / published.sum(0)
    rank = float(spearmanr(ours.ravel(), published.ravel()).statistic)
    error = float(np.median(np.abs(ours / published - 1)))
    yield (
        bool((np.abs(totals - 1) <= 0.05).all()),
        f"HAQ MobileNetV2, 64 uniform totals: {totals.min():.3f} to {totals.max():.3f} of theirs (within 5 %)",
    )
    yield rank > 0.99, f"HAQ MobileNetV2, Spearman over {ours.size} entries: {rank:.4f} (> 0.99)"
    yield error <= 0.025, f"HAQ MobileNetV2, median error of an entry: {error:.2%} (<= 2.5 %)"


def apq_entries() -> Iterator[tuple[ConvShape, int, int, float, float]]:
    """APQ's table: shape, weight bits, activation bits, cycles, energy in pJ."""
    for key, entry in golden("apq_bitfusion_latency_lut.json")["entries"].items():
        shape, _, widths = key.rpartition("-W")
        c_in, c_out, size, kernel, stride, _, groups = ast.literal_eval(shape)
        weight_bits, _, activation_bits = widths.partition("A")
        side, step, pad = (kernel, kernel), (stride, stride), (kernel // 2, kernel // 2)
        layer = ConvShape(c_in, c_out, size, size, side, step, pad, groups=groups)
        yield (
            layer,
            int(weight_bits),
            int(activation_bits),
            entry["latency"] / 1e3 * APQ_CLOCK_HZ,
            entry["energy"] * 1e9,
        )


def apq_bitfusion() -> Iterator[Line]:
    """The BitFusion model against APQ's table: latency by bit pair, energy with the open constants fitted."""
    if golden("apq_bitfusion_latency_lut.json") is None:
        yield True, "APQ BitFusion: skipped, the published table is absent"
        return
    model = load_target("bitfusion-e").cost_model()
    keys, cycles, terms, energy = [], [], [], []
    for shape, w, a, published, picojoules in apq_entries():
        cost = model.layer_cost(shape, w, a)
        keys.append(("depthwise" if shape.depthwise else "pointwise", f"W{w}A{a}"))
        cycles.append(cost.cycles / published - 1)
        terms.append([cost.cycles, cost.compute_cycles, cost.energy["dram"]])
        energy.append(picojoules)
    errors = np.abs(cycles)
    for kind, widths in sorted(set(keys)):
        chosen = errors[[key == (kind, widths) for key in keys]]
        median, ninety = float(np.median(chosen)), float(np.percentile(chosen, 90))
        holds = median <= 0.01 and ninety <= 0.02 if kind == "pointwise" else median <= 0.05
        limits = "<= 1 %, 90th percentile <= 2 %" if kind == "pointwise" else "<= 5 %"
        line = f"{len(chosen)} {kind} entries {widths}: median error {median:.2%}, 90th percentile {ninety:.2%}"
        yield holds, f"APQ BitFusion, {line}, maximum {chosen.max():.2%} (median {limits})"
    yield from _energy(np.array(terms), np.array(energy))


def _energy(terms: Floats, published: Floats) -> Iterator[Line]:
    """Two constants (pJ per cycle of the run, of arithmetic) fitted on a part; DRAM stays at its source's 15 pJ/bit."""
    fitted = np.arange(len(published)) % ENERGY_SPLIT == 0
    known, wanted = terms[:, :2] / published[:, None], 1 - terms[:, 2] / published
    start = np.linalg.lstsq(known[fitted], wanted[fitted], rcond=None)[0]
    found = minimize(lambda c: np.abs(known[fitted] @ c - wanted[fitted]).sum(), start, method="Nelder-Mead").x
    errors = np.abs(known @ found - wanted)[~fitted]
    median, ninety = np.median(errors), np.percentile(errors, 90)
    constants = f"constants {found[0]:.0f} and {found[1]:.0f} pJ/cycle fitted on {fitted.sum()} others"
    line = f"energy of {errors.size} entries, {constants}: median error {median:.2%}, 90th percentile {ninety:.2%}"
    yield bool(median <= 0.05), f"APQ BitFusion, {line} (median <= 5 %)"


def vela_cycles() -> Iterator[Line]:
    """Our cycles against those of Arm's compiler: ranks by layer, totals after a fit by op on another network."""
    from qir.backends.vela.compiler import vela_command
    from qir.backends.vela.referee import fit_ops, predicted, rank_correlation, referee
    from qir.errors import MissingExtraError

    try:
        vela_command()
    except MissingExtraError as error:
        yield True, f"Vela: skipped, {error}, or name its command by QIR_VELA"
        return
    networks = {name: folded(name) for name in ("resnet-20", "mobilenet-v2")}
    for name in ("ethos-u55-128-like", "ethos-u65-256-like", "ethos-u85-256-like"):
        target = load_target(name)
        rows = {}
        for network, module in networks.items():
            table = cost_table(module, target)
            rows[network] = referee(module, target, table, table.uniform(8, 8))
            rank = rank_correlation(rows[network])
            theirs = sum(row.referee_cycles for row in rows[network])
            total = f"total {sum(row.cycles for row in rows[network]) / theirs:.3f} of theirs before any fit"
            yield rank > 0.9, f"Vela, {name}, {network}: Spearman by layer {rank:.3f} (> 0.9), {total}"
        fits = fit_ops(rows["resnet-20"])
        ratio = predicted(rows["mobilenet-v2"], fits) / sum(row.referee_cycles for row in rows["mobilenet-v2"])
        found = ", ".join(
            f"{op} {fit.efficiency:.2f} + {fit.constant:.0f}" if fit.efficiency < np.inf else f"{op} fused"
            for op, fit in fits.items()
        )
        line = f"efficiency + constant by op from resnet-20 ({found}) predict mobilenet-v2: {ratio:.3f} of theirs"
        yield abs(ratio - 1) <= 0.15, f"Vela, {name}, {line} (within 15 %)"


def vela_compression() -> Iterator[Line]:
    """Weights on narrower grids: our cycles, which charge their widths, against the compiler's, which compresses."""
    from qir.backends.vela.compiler import vela_command
    from qir.backends.vela.referee import referee
    from qir.errors import MissingExtraError
    from qir.fake_quant import quantizers
    from qir.passes import PassContext, PassManager, parse_pipeline

    try:
        vela_command()
    except MissingExtraError:
        return
    module, target = folded("resnet-20"), load_target("ethos-u55-128-like")
    images = np.random.default_rng(0).normal(size=(4, 3, 32, 32)).astype(np.float32)
    context = PassContext(target=target, calibration_data=[{module.graph.inputs[0].name: images}])
    PassManager(parse_pipeline("insert-fake-quant,calibrate")).run(module, context)
    table = cost_table(module, target)
    ratios = {}
    for bits in (8, 6, 4):
        policy = table.uniform(8, bits)
        for name, quantizer in quantizers(module.graph).items():
            quantizer.bits = policy[name]
        rows = referee(module, target, table, policy)
        ratios[bits] = sum(row.cycles for row in rows) / sum(row.referee_cycles for row in rows)
    line = ", ".join(f"{bits} bits {ratio:.3f}" for bits, ratio in ratios.items())
    holds = all(abs(ratio - 1) <= 0.15 for ratio in ratios.values())
    yield (
        holds,
        f"Vela, ethos-u55-128-like, resnet-20, total by width of the weights, ours / theirs: {line} (within 15 %)",
    )


def folded(network: str) -> Module:
    """A reference network of random weights with its BatchNormalization folded."""
    import qir
    from qir.models.builders import export_onnx

    with tempfile.TemporaryDirectory() as folder:
        module = qir.load(export_onnx(network, Path(folder) / f"{network}.onnx"))
        run_passes(module, "fold-constants,fold-batchnorm")
    return module


def throughput() -> Iterator[Line]:
    """Policies of a network of 53 layers costed a second on one core."""
    table = cost_table(folded("mobilenet-v2"), "bismo-16x16x256")
    generator = np.random.default_rng(0)
    codes = np.stack([generator.integers(0, len(w), POLICIES, np.int8) for w in table.widths.values()], axis=1)
    policies = [
        {name: widths[code] for (name, widths), code in zip(table.widths.items(), row, strict=True)}
        for row in codes[: POLICIES // 100]
    ]
    rates = {}
    for form, given in (("as an array of codes", codes), ("as maps", policies)):
        table.cost(given[:1])
        start = time.thread_time()
        table.cost(given)
        rates[form] = len(given) / (time.thread_time() - start)
    line = ", ".join(f"{rate:,.0f} {form}" for form, rate in rates.items())
    limit = "reading each map limits the second form"
    yield rates["as an array of codes"] >= 1e6, f"cost table, 53 layers, policies a second: {line} (1,000,000; {limit})"


def measured_latency() -> Iterator[Line]:
    """Whole networks timed in ONNX Runtime against the sum of their single layers, float32, one thread."""
    import qir
    from qir.backends.costs.measured import predict_latency
    from qir.models.builders import export_onnx

    with tempfile.TemporaryDirectory() as folder:
        for network in ("lenet", "resnet-20", "mobilenet-v2"):
            module = qir.load(export_onnx(network, Path(folder) / f"{network}.onnx"))
            whole, predicted = predict_latency(module)
            error = predicted / whole.microseconds - 1
            line = f"{whole.microseconds:.0f} us measured, {predicted:.0f} us from single layers: {error:+.0%}"
            yield abs(error) <= 0.25, f"ONNX Runtime, {network}: {line} (within 25 %)"


CHECKS: list[Callable[[], Iterable[Line]]] = [haq_bit_serial, apq_bitfusion, vela_cycles, vela_compression, throughput]


def main() -> int:
    """Print every check; 1 when one falls short."""
    failed = 0
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--measured", action="store_true", help="also time networks on this machine (about a minute)")
    checks = CHECKS + [measured_latency] * parser.parse_args().measured
    for check in checks:
        for holds, line in check():
            failed += not holds
            print(f"{'ok  ' if holds else 'FAIL'} {line}", flush=True)
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
