"""The shipped targets as a document, each number with its source.

`python tools/documents/targets.py` prints `docs/reference/targets.md`; with `--schema`, the schema next to it.
"""

from __future__ import annotations

import json
import sys

from qir.backends.costs.models import COST_MODELS
from qir.backends.costs.target import Target, load_target, shipped_targets, target_schema
from qir.cli.verbs.lists.targets import widths_text

_HEAD = """# Targets

Made by `python tools/documents/targets.py > docs/reference/targets.md`. `qir targets` shows the same targets, and
`qir cost model.onnx --target NAME` costs a network on one. A target of your own is a JSON file of the same form
(`docs/reference/target.schema.json`); an unknown key is an error that names the nearest.

Illustrative targets hold invented or borrowed numbers, marked below: no such chip was measured.
"""

_LAYOUTS = """
## Delay tables

`delay-table` targets look latencies up. Three layouts are read and written by the ending of the name, and
`qir target import FILE FILE` turns one into another:

- CSV: `layer,weight_bits,activation_bits,delay`, and optionally the layer's shape (`in_channels`, `out_channels`,
  `height`, `width`, `kernel`, `stride`, `padding`, `groups`, `batch`), so that `fit` needs no network
- JSON: format `qir.delay-table`, without shapes
- HAQ's `.npy`: int64 [layers, 8, 8], indexed [layer, weight bits - 1, activation bits - 1], layers in order

Nodes without weights can be listed with 0 weight bits; `qir target measure` does so. What a table does not list costs
what the target's parameters `others` and `missing` say. HAWQ-V3's published latencies (`latency_int4`,
`latency_int8`) are imported too.

## Referee

A target with the key `referee` names what Arm's compiler Vela compiles for (extra `vela`):
`qir cost model.onnx --target ethos-u55-128-like --referee vela` writes the network's int8 form as TensorFlow Lite,
compiles it and prints Vela's cycles next to ours. `python benchmarks golden-costs` holds the two against each other.
Feature maps lie in SRAM (`Shared_Sram`); what the compiler adds when they spill to DRAM (short bursts, weights fetched
again for every block) is not modelled.

`qir.backends.rtl` is the referee of `bit-serial`: `BitSerialUnit.of(target)` is the unit in Verilog with the target's
rows, columns and depth, `run(products)` simulates products of matrices in Verilator, cycle by cycle. Over
convolutions (strided, dilated, pointwise, grouped) and a fully connected layer at pairs of 1 to 8 bits the sums are
the integer reference's and the cycles `compute_cycles` of the model (a slow test, skipped without Verilator). Its
memories answer in the same cycle: transfers and results are not simulated, and a depthwise layer is not charged to
the unit.
"""


def document() -> str:
    """Return the text of `docs/reference/targets.md`."""
    targets = [load_target(name) for name in shipped_targets()]
    lines = [_HEAD, "| target | cost model | weights | activations | pairs | clock |", "|---|---|---|---|---|---|"]
    lines += [_row(target) for target in targets]
    for target in targets:
        lines += ["", f"## {target.name}", "", _sentence(target), "", "| number | value | source |", "|---|---|---|"]
        lines += [f"| `{key}` | {_values(target, key)} | {source} |" for key, source in target.sources.items()]
        lines += [f"\nLeft out: {note}." for note in COST_MODELS[target.cost.kind].notes]
    return "\n".join(lines) + "\n" + _LAYOUTS


def schema() -> str:
    """Return the text of `docs/reference/target.schema.json`."""
    return json.dumps(target_schema(), indent=2) + "\n"


def _row(target: Target) -> str:
    name = f"[`{target.name}`](#{target.name})" + (" (illustrative)" if target.illustrative else "")
    pairs = "all" if target.pairs is None else ", ".join(f"{a}/{w}" for a, w in target.pairs)
    clock = "unknown" if target.clock_hz is None else f"{target.clock_hz / 1e6:g} MHz"
    widths = (widths_text(target.weight_widths), widths_text(target.activation_widths))
    return f"| {name} | {target.cost.kind} | {widths[0]} | {widths[1]} | {pairs} | {clock} |"


def _sentence(target: Target) -> str:
    return ("Illustrative. " if target.illustrative else "") + target.description


def _values(target: Target, key: str) -> str:
    """Return what the file holds under a key of `sources`; a key names several things, divided by commas."""
    found = []
    prefix = ""
    for part in key.split(", "):
        path = part if "." in part or part in Target.model_fields else f"{prefix}{part}"
        prefix = path.rpartition(".")[0] + "."
        found.append(_text(_value(target, path)))
    return "; ".join(found)


def _value(target: Target, path: str) -> object:
    parts = path.split(".")
    data: object = target.model_dump()
    for part in parts:
        if isinstance(data, dict):
            data = data.get(part)
        elif isinstance(data, (list, tuple)):
            named = [entry for entry in data if isinstance(entry, dict) and entry.get("name") == part]
            data = named[0] if named else [(entry["name"], entry.get(part)) for entry in data]
    if parts[:2] == ["cost", "parameters"] and data is None:
        return getattr(target.cost_model().parameters, parts[-1], None)
    return data


def _text(value: object) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, dict):
        return ", ".join(f"{key} {_text(entry)}" for key, entry in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(_entry(entry) for entry in value)
    return str(value)


def _entry(value: object) -> str:
    """Return an entry of a list: a memory as name and figures, a pair as a/w."""
    if isinstance(value, dict):
        figures = {key: entry for key, entry in value.items() if key != "name" and entry is not None}
        return f"{value.get('name', '')} ({_text(figures)})"
    if isinstance(value, tuple) and value and isinstance(value[0], str):
        return f"{value[0]} {_text(value[1])}"
    return "/".join(map(str, value)) if isinstance(value, tuple) else _text(value)


if __name__ == "__main__":
    sys.stdout.write(schema() if sys.argv[1:] == ["--schema"] else document())
