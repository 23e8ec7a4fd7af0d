"""What written files are worth: held against the float network on the data that judge, and the rows that say so."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from qir.errors import QirError
from qir.module import Module
from qir.passes.data.samples import batches
from qir.passes.exporting.export import ExportReport
from qir.passes.parity.agreement import Agreement, Labels, agreement_of_file
from qir.passes.parity.layer_losses import layer_losses
from qir.policy import Policy
from qir.search.evaluation.splits import TEST, VALIDATION, Splits
from qir.search.job.allowance import Extras
from qir.search.report.quantized import CHOSEN
from qir.search.report.rows import Costed, Row
from qir.support.progress import stage

Tried = tuple[Agreement | None, int | None]
"""How a policy agrees with the float network, and the bytes of its file; None where it cannot be written."""

NOISE_SAMPLES = 8
"""Samples that the noise of each layer is told on."""

_UNKNOWN: Tried = (None, None)


@dataclass(frozen=True)
class Judge:
    """The float network, and the data on which written files are held against it.

    Attributes:
        original: the float network.
        splits: the data; the test split judges, else the validation split, else the calibration data.
        samples: the calibration data as they are read, or made from the network.
        chose_bits: accuracy on the validation split chose the bits.
    """

    original: Module
    splits: Splits
    samples: Any
    chose_bits: bool

    @property
    def shown(self) -> Any:
        """The samples that judge."""
        return self.samples if self.splits.judged is None else self.splits.judged.images

    @stage("comparison")
    def agreement(self, written: ExportReport) -> Agreement:
        """Return how a written file agrees with the float network."""
        judged, labels = self.splits.judged, self.splits.labels
        if judged is None:
            distilled = self.samples is not self.splits.calibration
            called = "samples distilled from the network" if distilled else "the calibration data"
            known = None if labels is None or distilled else Labels(labels, "the calibration data")
        else:
            called = TEST if self.splits.test is not None else VALIDATION
            known = Labels(judged.labels, called)
            called += ", which chose the bits" if self.splits.test is None and self.chose_bits else ""
        return agreement_of_file(written.model, self.original, self.shown, called=called, labels=known)

    def noise(self, written: ExportReport) -> dict[str, float]:
        """Return decibels of signal to noise by layer, on a few samples; empty where the file holds no codes."""
        from qir.onnx_io import load

        try:
            feed = next(iter(batches(self.original, self.shown, batch=NOISE_SAMPLES)))
            return {loss.node: loss.sqnr for loss in layer_losses(load(written.model), self.original, feed)}
        except QirError:
            return {}

    def try_out(self, write: Callable[[Path], ExportReport]) -> Tried:
        """Return agreement and size of a network that is written into a folder which goes."""
        with tempfile.TemporaryDirectory() as folder:
            try:
                written = write(Path(folder) / "model.quant.onnx")
            except QirError:
                return _UNKNOWN
            return self.agreement(written), written.model.stat().st_size


def closing_rows(
    costed: Costed,
    chosen: Policy,
    agreement: Agreement,
    written: ExportReport,
    *,
    given: int | None,
    others: tuple[Extras[Tried], Callable[[Policy], Tried]] | None,
) -> tuple[Row, ...]:
    """Return the float network, uniform widths and the chosen policy.

    Args:
        costed: what policies cost.
        chosen: bits of every decision.
        agreement: how the written file agrees with the float network.
        written: the file.
        given: bytes of the float network's file, where it is one.
        others: how uniform widths are measured as long as there is time; None leaves them unmeasured.
    """
    found = agreement.accuracy
    rows = [costed.float_row(None if found is None else found.float_right / found.samples, given)]
    for label, policy in costed.uniforms().items():
        if policy != chosen or costed.problem is not None:
            tried = _UNKNOWN if others is None else others[0].do(label, partial(others[1], policy), _UNKNOWN)
            rows.append(costed.row(label, policy, *tried))
    rows.append(costed.row(CHOSEN, chosen, agreement, written.model.stat().st_size))
    return tuple(rows)
