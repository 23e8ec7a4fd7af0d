"""`qir verify`: does an exported file compute what the integer reference computes?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from qir.cli.options import with_groups
from qir.cli.samples import ImageOptions, read_and_tell
from qir.cli.verdict import print_pair, print_verdict
from qir.cli.written import print_agreement


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command()(with_groups(verify))


def verify(
    model: Annotated[Path, typer.Argument(help="Exported network of any profile, or of another tool.")],
    against: Annotated[Path | None, typer.Option(help="Float network: prints the noise of each layer.")] = None,
    data: Annotated[
        Path | None, typer.Option("--data", "-d", help="Samples of any kind; normal noise without them.")
    ] = None,
    pair: Annotated[str, typer.Option(help="Only count what two executors compute differently: plain,fused.")] = "",
    everything: Annotated[bool, typer.Option("--all", help="Every layer in order, and every name.")] = False,
    *,
    images: ImageOptions,
) -> None:
    """Run the integer reference and ONNX Runtime (fused, unfused, plain, precise) and compare every code.

    Each layer is compared on the codes that the engine itself gave it; ties are roundings of floats that lie within
    float error of a half step. `dyadic` is the integer reference with int32 multipliers and shifts, `x86 without VNNI`
    with the sums that such CPUs clip. A float network with encodings next to it is compared as the QCDQ network that
    they describe.

    Exit code 0: the file is exact, or exact only with VNNI (or ARM) and says so itself; 1: it is not; 2: the input is
    wrong.

    With `--pair` two executors are compared, neither of them right by definition (`integer`, `no-vnni`, `dyadic`,
    `power-of-two`, `fused`, `unfused`, `plain`, `precise`, `qonnx`, `torch`, `simulation`), and the exit code is 0.

    qir verify model.quant.onnx --against model.onnx --data x.npy
    """
    import qir
    from qir.passes.parity.agreement import agreement, labels_in, written_network
    from qir.passes.parity.compare import parity

    float_network = None if against is None else qir.load(against)
    exported = written_network(model)
    samples = read_and_tell(data, exported, against or model, images)
    if pair:
        print_pair(exported, pair, samples)
        return
    report = parity(exported, samples, against=float_network)
    print_verdict(report, everything=everything)
    if float_network is not None:
        print_agreement(agreement(exported, float_network, samples, labels=labels_in(samples, "the data given")))
    if not report.keeps_promise:
        raise typer.Exit(1)
