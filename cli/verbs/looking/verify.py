"""`qir verify`: does an exported file compute what the integer reference computes?"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from qir.cli.answers import Answer
from qir.cli.networks import network, network_path
from qir.cli.options import Memory
from qir.cli.samples import ImageOptions, read_and_tell
from qir.cli.verdict import print_pair, print_products, print_proof, print_verdict
from qir.cli.written import print_agreement


def verify(
    model: Annotated[Path, network("Exported file of any profile, or of another tool")],
    against: Annotated[
        str | None, typer.Option(help="Float network, or the name of a shipped one: prints the noise of each layer.")
    ] = None,
    data: Annotated[
        Path | None, typer.Option("--data", "-d", help="Samples of any kind; normal noise without them.")
    ] = None,
    pair: Annotated[str, typer.Option(help="Only count what two executors compute differently: plain,fused.")] = "",
    prove: Annotated[
        bool, typer.Option(help="Only decide what holds for all inputs: sums, requantization, saturation.")
    ] = False,
    everything: Annotated[bool, typer.Option("--all", help="Every layer in order, and every name.")] = False,
    memory: Memory = None,
    *,
    images: ImageOptions,
) -> Answer:
    """Run the integer reference and ONNX Runtime (fused, unfused, plain, precise) and compare every code.

    Each layer is compared on the codes that the engine itself gave it; ties are roundings of floats that lie within
    float error of a half step. `dyadic` is the integer reference with int32 multipliers and shifts, `x86 without VNNI`
    with the sums that such CPUs clip. A float network with encodings next to it is compared as the QCDQ network that
    they describe. Where weights alone have codes, in blocks, each product is computed again from what ONNX Runtime's
    default session gave it.

    Exit code 0: the file is exact, or exact only with VNNI (or ARM) and says so itself; 1: it is not; 2: the input is
    wrong.

    With `--pair` two executors are compared, neither of them right by definition (`integer`, `no-vnni`, `dyadic`,
    `power-of-two`, `fused`, `unfused`, `plain`, `precise`, `qonnx`, `torch`, `simulation`), and the exit code is 0.

    With `--prove` nothing is run on data: sums are bounded channel by channel from the weights and the codes that come
    in; whether float32, dyadic multipliers and, with the guide next to the file, its multipliers and thresholds give
    equal codes is decided for every integer that a sum can be. Exit code 1 where a sum can leave int32, or x86 CPUs
    without VNNI can clip one and the file does not say so.

    qir verify model.quant.onnx --against model.onnx --data x.npy
    """
    import qir
    from qir.passes.exporting.all_inputs import guide_beside, prove_all_inputs
    from qir.passes.exporting.check import compared_feeds
    from qir.passes.exporting.products import check_products
    from qir.passes.parity.agreement import agreement, labels_in, written_network
    from qir.passes.parity.compare import parity
    from qir.passes.parity.simulation import is_simulation

    del memory  # the budget of the whole verb
    original = None if against is None else network_path(against)
    float_network = None if original is None else qir.load(original)
    exported = written_network(model)
    if prove:
        proof = prove_all_inputs(exported, *guide_beside(model))
        return Answer(proof, partial(print_proof, proof, everything=everything), code=0 if proof.holds else 1)
    samples = read_and_tell(data, exported, original or model, images)
    if pair:
        return Answer(print_pair(exported, pair, samples))
    report = parity(exported, samples, against=float_network)
    print_verdict(report, everything=everything)
    found = None
    if float_network is not None:
        found = agreement(exported, float_network, samples, labels=labels_in(samples, "the data given"))
        print_agreement(found)
    products = check_products(exported, compared_feeds(exported, samples)) if is_simulation(exported) else None
    if products is not None and products.products:
        print_products(products)
    exact = report.keeps_promise and (products is None or not products.wrong)
    record = {"verdict": report.verdict, "exact": exact, "parity": report, "against_float": found}
    if products is not None:
        record["products"] = products
    return Answer(record, code=0 if exact else 1)
