"""What a quantization made: the decisions and why, what they cost, how accurate the network is, and the files."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qir.errors import QirError, SearchError
from qir.module import Module
from qir.passes.exporting.export import ExportReport, export
from qir.passes.parity.agreement import Accuracy, Agreement
from qir.policy import Policy
from qir.search.problem.result import VALUE, Result, finite, read_policy, result_of
from qir.search.report.grounds import Grounds
from qir.search.report.page.drawing import Drawing
from qir.search.report.rows import HEADINGS, Layer, Row
from qir.support.atomic_write import atomic_write
from qir.support.html_table import html_table
from qir.support.json_text import parse_json, typed
from qir.support.printable import printable

if TYPE_CHECKING:
    from qir.backends.costs.target import Target
    from qir.search.report.explanation import Explanation
    from qir.search.report.page.report import Report

CHOSEN = "chosen"
"""Label of the row of the network that was written."""


@dataclass(frozen=True, repr=False)
class Quantized:
    """What a quantization made. Printed, it is a table; `save` and `load` keep it as JSON.

    Attributes:
        written: the files, and how they compared with the reference.
        result: how the bits were chosen; None without a budget, where every quantizer has its widest width.
        policy: bits of every quantizer.
        agreement: the outputs of the file against the float network's, and accuracy where there are labels.
        rows: the closing table: float, uniform widths where legal, and what was written.
        layers: bits and cycles of every layer whose cost is known.
        left_float: layers that stayed float, and why.
        notes: what a reader should know: where the file declares types that contradict its operands, for example.
        provenance: model, data, target, settings and versions that made it.
        options: options of every decision, in the order in which a search takes them.
        reference: what the first budget's cost is at 8 bits everywhere; None without a budget.
        grounds: what the bits were decided on, for `explain`.
        target: the hardware.
        module: the network with fake-quant nodes at its policy, as it was exported; None in one that was loaded.
        samples: what the files were compared on; None in one that was loaded.
        measured_by: metric of the sensitivities that chose the bits; empty where none did.
        searches: every search of the job, by method, to be held against `result`; empty in one that was loaded.
        compared: the table of `Job.compare` as text, headings first; empty where nothing was compared.
        drawing: the network as the report shows it.
        noise: node → signal to quantization noise ratio of its result in decibels, where it was measured.
    """

    written: ExportReport
    result: Result | None
    policy: Policy
    agreement: Agreement
    rows: tuple[Row, ...] = ()
    layers: tuple[Layer, ...] = ()
    left_float: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    provenance: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    reference: float | None = None
    grounds: Grounds | None = None
    target: Target | None = None
    module: Module | None = None
    samples: Any = None
    measured_by: str = ""
    searches: Mapping[str, Result] = field(default_factory=dict)
    compared: tuple[tuple[str, ...], ...] = ()
    drawing: Drawing = field(default_factory=Drawing)
    noise: Mapping[str, float] = field(default_factory=dict)

    @property
    def certificate(self) -> str:
        """Status, bound and gap of the choice in one line."""
        return "none: no budget, every quantizer at its widest" if self.result is None else self.result.certificate

    @property
    def selected_by(self) -> str:
        """What is best in the policy: a sensitivity, a measured accuracy, or the name of a reward."""
        if self.result is None:
            return "widest legal width"
        if self.result.selected_by != VALUE:
            return f"reward {self.result.selected_by}"
        if not self.result.minimised:
            return "accuracy on search-validation"
        return f"sensitivity {self.measured_by}" if self.measured_by else "divergence of the outputs"

    @property
    def accuracy(self) -> Accuracy | None:
        """Accuracy next to that of the float network, with the name of its split; None without labels."""
        return self.agreement.accuracy

    @property
    def files(self) -> dict[str, Path]:
        """Paths of what was written, by what it is."""
        found = {name: getattr(self.written, name) for name in ("model", "guide", "weights", "encodings")}
        return {name: path for name, path in found.items() if path is not None}

    def explain(self, node: str) -> list[Explanation]:
        """Return why the quantizers of a layer have their bits, and what others would cost and lose.

        Args:
            node: a quantizer, or a layer: what the names of its quantizers begin with.

        Raises:
            SearchError: there is no such quantizer or layer, or the record was written without the grounds.
        """
        from qir.search.report.explanation import explain

        if self.grounds is None:
            raise SearchError("explain: the record holds no grounds of the decisions: quantize again and save it")
        return explain(node, self.policy, self.grounds, self.result)

    def table(self) -> list[tuple[str, ...]]:
        """Headings, then the rows, without columns in which nothing is known."""
        cells = [row.cells() for row in self.rows]
        kept = [i for i in range(len(HEADINGS)) if any(row[i] for row in cells)]
        return [tuple(line[i] for i in kept) for line in (HEADINGS, *cells)]

    def lines(self) -> list[str]:
        """Return text below the table: decisions, certificate, where the figures come from, files."""
        found = []
        if self.result is not None:
            found += [("chosen by", f"{self.result.method}, {self.selected_by}"), ("certificate", self.certificate)]
        if self.accuracy is not None:
            found.append(("accuracy", self.accuracy.text))
        compared = self.agreement.reason or f"{self.agreement.data} ({self.agreement.samples:,} samples)"
        found.append(("compared on", compared))
        found += [(name, f"{path}  ({_size(path)})") for name, path in self.files.items()]
        return [f"{label:<12}{text}" for label, text in found]

    def table_text(self) -> list[str]:
        """Return the table as lines of plain text, in columns."""
        table = self.table()
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        rows = [
            "  ".join(cell.rjust(width) if index else cell.ljust(width) for index, (cell, width) in enumerate(cells))
            for cells in (tuple(zip(row, widths, strict=True)) for row in table)
        ]
        return [printable(line.rstrip()) for line in rows]

    def __str__(self) -> str:
        """Write the table and what belongs to it as plain text."""
        return "\n".join((*self.table_text(), *map(printable, self.lines())))

    __repr__ = __str__

    def _repr_html_(self) -> str:
        """Show a table in a notebook."""
        head, *rows = self.table()
        return html_table(head, rows, self.lines())

    def report(self, path: str | Path) -> Path:
        """Write one self-contained HTML page: the table, the network with its bits, layers, front, searches and files.

        Raises:
            SearchError: the file cannot be written.
        """
        return _page(self, Path(path)).write(path)

    def export(
        self, output: str | Path | None = None, *, profile: str | None = None, allow_mismatches: bool = False
    ) -> ExportReport:
        """Write the same network in another profile; one that was loaded is read from its model file.

        Args:
            output: path of the model; by default next to the first one, with the profile's name in its own.
            profile: export profile; by default the target's.
            allow_mismatches: as for `qir.export`.

        Raises:
            ExportError: as `qir.export`.
            QirError: the model file of one that was loaded is gone, or holds no quantizers.
        """
        if output is None:
            model = self.written.model
            stem = model.name.removesuffix(".onnx").removesuffix(".quant")
            output = model.with_name(f"{stem}.{profile or self.written.profile}.onnx")
        splits = {str(k): str(v) for k, v in self.provenance.get("splits", {}).items()}
        return export(
            self._network(),
            output,
            profile=profile,
            target=self.target,
            data=self.samples,
            splits=splits or None,
            allow_mismatches=allow_mismatches,
        )

    def _network(self) -> Module:
        if self.module is not None:
            return self.module
        from qir.onnx_io import load
        from qir.passes.raising import raise_quantized

        return raise_quantized(load(self.written.model))

    def save(self, path: str | Path) -> Path:
        """Write decisions, figures, paths and provenance as JSON, atomically; networks and samples are not in it.

        Raises:
            SearchError: the file cannot be written.
        """
        with atomic_write(path, SearchError) as file:
            file.write_text(json.dumps(self.to_json(), indent=1), encoding="utf-8")
        return Path(path)

    def to_json(self) -> dict[str, Any]:
        """Return the record as plain numbers, lists and text."""
        from pydantic import TypeAdapter

        plain = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in _KEPT_APART}
        record: dict[str, Any] = TypeAdapter(dict[str, Any]).dump_python(plain, mode="json")
        record["policy"] = dict(self.policy)
        record["result"] = None if self.result is None else self.result.to_json()
        record["grounds"] = None if self.grounds is None else self.grounds.to_json()
        record["target"] = None if self.target is None else self.target.model_dump(mode="json")
        plainly: dict[str, Any] = finite(record)
        return plainly

    @staticmethod
    def load(path: str | Path) -> Quantized:
        """Read what `save` wrote.

        Raises:
            SearchError: the file is missing, or holds something else.
        """
        from qir.backends.costs.target import Target

        try:
            found = typed(dict[str, Any], parse_json(Path(path).read_text(encoding="utf-8")))
            plain = {name: typed(kind, found.get(name)) for name, kind in _TYPED.items()}
            policy, measured_by = read_policy(found.get("policy")), typed(str, found.get("measured_by", ""))
            result = None if found.get("result") is None else result_of(found["result"])
            target = None if found.get("target") is None else Target.model_validate(found["target"])
            grounds = None if found.get("grounds") is None else Grounds.of_json(found["grounds"])
            return Quantized(
                **plain, policy=policy, measured_by=measured_by, result=result, target=target, grounds=grounds
            )
        except (OSError, ValueError, KeyError, TypeError, AttributeError, QirError) as error:
            message = f"{path}: is not a saved quantization ({_first(error)}): expected a file of `Quantized.save`"
            raise SearchError(message) from error


_TYPED: dict[str, Any] = {
    "written": ExportReport,
    "agreement": Agreement,
    "rows": tuple[Row, ...],
    "layers": tuple[Layer, ...],
    "notes": tuple[str, ...],
    "options": dict[str, tuple[int, ...]],
    "left_float": dict[str, str],
    "provenance": dict[str, Any],
    "reference": float | None,
    "compared": tuple[tuple[str, ...], ...],
    "drawing": Drawing,
    "noise": dict[str, float],
}
"""Fields whose JSON is checked against their types."""

_KEPT_APART = {"policy", "result", "target", "module", "samples", "grounds", "searches"}
"""Fields that have a form of their own in JSON, or none."""


def _size(path: Path) -> str:
    try:
        return f"{path.stat().st_size:,} bytes"
    except (OSError, ValueError):  # a loaded one names what may be gone, or cannot be a path
        return "missing"


def _page(done: Quantized, path: Path) -> Report:
    """Return the page of a quantization; links to the files begin where it will lie."""
    from qir.search.report.page.front import front_of
    from qir.search.report.page.report import Report

    result, problem = done.result, None if done.grounds is None else done.grounds.problem
    return Report(
        title=f"{done.provenance.get('model', 'network')} quantized",
        lead=_lead(done),
        certificate=_in_words(result),
        facts=[
            *(("note", note) for note in (*done.notes, *(result.notes if result else ()))),
            *((f"left in float: {name}", why) for name, why in done.left_float.items()),
            *((name, _text(value)) for name, value in done.provenance.items() if value),
        ],
        files=[(what, file.name, _link(file, path), _size(file)) for what, file in done.files.items()],
        rows=done.compared or done.table(),
        layers=done.layers,
        noise=done.noise,
        drawing=done.drawing,
        grounds=done.grounds,
        policy=done.policy,
        front=front_of(problem, result),
        results=_held_against(done, result) if result else {},
        probabilities=result.probabilities if result else (),
        options={name: [f"{bits} bits" for bits in widths] for name, widths in done.options.items()},
        limits=dict(result.limits) if result else {},
        reference=done.reference,
    )


def _lead(done: Quantized) -> str:
    chosen = done.rows[-1] if done.rows else None
    found = [f"for {done.provenance.get('target', 'no target')}"]
    if chosen is not None and chosen.share is not None:
        found.append(f"{chosen.share:.3f} of the cost of 8 bits everywhere")
    if done.accuracy is not None:
        found.append(done.accuracy.text)
    elif chosen is not None and chosen.agreeing is not None:
        found.append(f"{100 * chosen.agreeing:.2f} % of decisions as in float on {done.agreement.data}")
    proven = f"{done.written.mismatches:,} of {done.written.codes:,} codes differ from the {done.written.reference}"
    return "; ".join((*found, proven)) + "."


def _in_words(result: Result | None) -> str:
    """Return the certificate as a sentence."""
    if result is None:
        return "No budget was given: every tensor has its widest legal width, and nothing was traded."
    if result.status == "optimal":
        sums = "smaller predicted loss" if result.minimised else "higher measured value"
        return f"Proven optimal ({result.method}): no policy within the budget has a {sums}. {result.certificate}."
    if result.gap is not None and result.bound is not None:
        return f"Within {result.gap:.2%} of the best possible ({result.method}). {result.certificate}."
    tried = f"The best of {len(result.evaluations)} policies tried ({result.method}); nothing is proven"
    return f"{tried}. {result.certificate}."


def _held_against(done: Quantized, result: Result) -> dict[str, Result]:
    """Return the result, then the other searches that optimised the same thing."""
    others = {name: other for name, other in done.searches.items() if other.minimised == result.minimised}
    return {result.method: result, **{name: other for name, other in others.items() if name != result.method}}


def _link(file: Path, page: Path) -> str:
    try:
        return Path(os.path.relpath(file, page.parent)).as_posix()
    except (OSError, ValueError):  # another drive, or no path at all
        return file.as_posix()


def _text(value: Any) -> str:
    return ", ".join(f"{k}={v}" for k, v in value.items()) if isinstance(value, Mapping) else str(value)


def _first(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
