"""Targets are read strictly, written back unchanged, and refuse what they cannot do."""

import json
from pathlib import Path

import pytest

from qir.backends import ConvShape, load_target, target_names
from qir.backends.costs.models import COST_MODELS
from qir.backends.costs.target import Target, shipped_targets, target_schema
from qir.errors import TargetError


def _data(name: str = "npu-148") -> dict[str, object]:
    return json.loads(load_target(name).to_json())


def _load(tmp_path: Path, data: object) -> None:
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(data), encoding="utf-8")
    load_target(path)


@pytest.mark.parametrize("name", target_names())
def test_shipped_target_survives_a_round_trip(name: str, tmp_path: Path) -> None:
    target = load_target(name)
    target.save(tmp_path / "copy.json")
    again = load_target(tmp_path / "copy.json")
    file = target.cost.parameters.get("file")
    if file is not None:
        assert again.cost.parameters["file"] == str(tmp_path / file)
        again.cost.parameters["file"] = file
    assert again == target
    assert target.name == name


@pytest.mark.parametrize("name", target_names())
def test_shipped_target_names_the_sources_of_its_numbers(name: str) -> None:
    target = load_target(name)
    assert target.sources
    assert target.description


def test_operand_rules_of_the_demo_target() -> None:
    rules = load_target("npu-148").operand_rules()
    assert rules.pairs == {(2, 1), (4, 4), (8, 8)}
    assert not rules.allows(8, 4)


def test_unknown_key_names_the_nearest(tmp_path: Path) -> None:
    data = _data() | {"weight_width": [8]}
    with pytest.raises(TargetError, match=r"weight_width.*did you mean 'weight_widths'"):
        _load(tmp_path, data)


def test_unknown_cost_parameter_names_the_nearest(tmp_path: Path) -> None:
    data = _data()
    data["cost"]["parameters"]["row"] = 2
    with pytest.raises(TargetError, match=r"row.*did you mean 'rows'"):
        _load(tmp_path, data)


@pytest.mark.parametrize("value", [-1, 0, "many", None])
def test_invalid_parameter_is_named(tmp_path: Path, value: object) -> None:
    data = _data()
    data["cost"]["parameters"]["rows"] = value
    with pytest.raises(TargetError, match="rows"):
        _load(tmp_path, data)


def test_missing_parameter_is_named(tmp_path: Path) -> None:
    data = _data()
    del data["cost"]["parameters"]["rows"]
    with pytest.raises(TargetError, match="'rows' is missing"):
        _load(tmp_path, data)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("pairs", [[3, 3]]),
        ("weight_widths", [8, 4]),
        ("memories", []),
        ("version", 2),
        ("clock_hz", -1),
        ("pairs", []),
        ("clock_hz", float("inf")),
    ],
)
def test_invalid_value_is_named(tmp_path: Path, key: str, value: object) -> None:
    with pytest.raises(TargetError):
        _load(tmp_path, _data() | {key: value})


def test_unknown_target_and_cost_model_name_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(TargetError, match="npu-148"):
        load_target("npu148")
    data = _data()
    data["cost"]["kind"] = "bitserial"
    with pytest.raises(TargetError, match="bit-serial"):
        _load(tmp_path, data)


def test_unreadable_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TargetError, match="cannot be read"):
        load_target(tmp_path / "absent.json")
    (tmp_path / "broken.json").write_text("{", encoding="utf-8")
    with pytest.raises(TargetError, match="no valid JSON"):
        load_target(tmp_path / "broken.json")


def test_illegal_widths_are_refused() -> None:
    model = load_target("npu-148").cost_model()
    shape = ConvShape(8, 8, 4, 4)
    with pytest.raises(TargetError, match="no 3-bit weights"):
        model.layer_cost(shape, weight_bits=3, activation_bits=4)
    with pytest.raises(TargetError, match="legal pairs"):
        model.layer_cost(shape, weight_bits=4, activation_bits=8)


@pytest.mark.parametrize(
    "changes",
    [
        {"height": 0},
        {"groups": 3},
        {"kernel": (9, 9)},
        {"padding": (-1, 0)},
        {"kernel": (3,)},
        {"fully_connected": True},
    ],
)
def test_impossible_shapes_are_refused(changes: dict[str, object]) -> None:
    with pytest.raises(TargetError, match="layer shape"):
        ConvShape(**({"in_channels": 8, "out_channels": 8, "height": 4, "width": 4} | changes))


def test_schema_is_published() -> None:
    schema = target_schema()
    records = [schema, *schema["$defs"].values()]
    described = {
        f"{r['title']}.{key}": "description" in entry for r in records for key, entry in r["properties"].items()
    }
    assert described["Target.weight_widths"]
    assert described["Memory.bits_per_cycle"]
    assert described["RooflineParameters.macs_per_cycle"]
    cases = {case["if"]["properties"]["kind"]["const"]: case["then"] for case in schema["$defs"]["CostSpec"]["allOf"]}
    assert cases.keys() == set(COST_MODELS)
    named = cases["roofline"]["properties"]["parameters"]["$ref"].removeprefix("#/$defs/")
    assert schema["$defs"][named]["required"] == ["macs_per_cycle"]
    assert all(described.values()), described


def test_reduce_range_leaves_out_the_pairs_whose_products_leave_int16(tmp_path: Path) -> None:
    widths = {"weight_widths": [4, 7, 8], "activation_widths": [4, 7, 8], "reduce_range": True}
    path = tmp_path / "mine.json"
    path.write_text(json.dumps({k: v for k, v in _data().items() if k != "pairs"} | widths), encoding="utf-8")
    rules = load_target(path).operand_rules()
    assert not rules.allows(8, 8)
    assert rules.allows(8, 7)
    assert rules.allows(7, 8)
    assert len(rules.legal_pairs()) == 8


def test_reduce_range_keeps_8_by_8_bits_where_7_are_not_choice() -> None:
    """Export narrows these weights."""
    target = load_target("npu-148")
    assert target.model_copy(update={"reduce_range": True}).operand_rules() == target.operand_rules()


def test_requantization_is_one_of_three(tmp_path: Path) -> None:
    with pytest.raises(TargetError, match=r"export\.requantization.*'float32', 'dyadic' or 'power-of-two'"):
        _load(tmp_path, _data() | {"export": {"requantization": "int8"}})


def _sourced(target: Target) -> set[str]:
    """Paths that the keys of `sources` name; a key names several, divided by commas, under the first one's prefix."""
    found = set()
    for key in target.sources:
        prefix = ""
        for part in key.split(", "):
            path = part if "." in part or part in Target.model_fields else prefix + part
            prefix = path.rpartition(".")[0] + "."
            found.add(path)
    return found


@pytest.mark.parametrize("name", shipped_targets())
def test_every_number_of_a_shipped_target_has_a_source(name: str) -> None:
    target = load_target(name)
    wanted = {f"cost.parameters.{key}" for key in target.cost.parameters} | {"weight_widths", "activation_widths"}
    wanted |= {key for key in ("clock_hz", "pairs") if getattr(target, key)}
    memory = target.outermost_memory
    wanted |= {
        f"memories.{memory.name}.{key}" for key in ("bits_per_cycle", "energy_pj_per_bit") if getattr(memory, key)
    }
    sourced = _sourced(target) | {path.replace("memories.", f"memories.{memory.name}.", 1) for path in _sourced(target)}
    missing = [path for path in wanted if not any(path == key or path.startswith(key + ".") for key in sourced)]
    assert not missing


def test_documents_hold_the_shipped_targets(script) -> None:
    made = script("tools/documents/targets.py")
    docs = Path(__file__).resolve().parents[3] / "docs" / "reference"
    command = "python tools/documents/targets.py"
    assert (docs / "targets.md").read_text(encoding="utf-8") == made.document(), (
        f"run: {command} > docs/reference/targets.md"
    )
    written = (docs / "target.schema.json").read_text(encoding="utf-8")
    assert written == made.schema(), f"run: {command} --schema > docs/reference/target.schema.json"


def test_micro_blocks_without_size_are_refused(tmp_path: Path) -> None:
    data = json.loads(load_target("ethos-u55-128-like").to_json())
    data["cost"]["parameters"]["micro_blocks"] = [[2, 0, 8]]
    with pytest.raises(TargetError, match=r"micro_blocks\[0\]\[1\]"):
        _load(tmp_path, data)


@pytest.mark.parametrize("place", ["absolute", "above", "link"])
def test_the_file_of_a_target_stays_in_its_folder(place: str, tmp_path: Path) -> None:
    table = tmp_path / "delays.csv"
    table.write_text("layer,weight_bits,activation_bits,delay\nl,8,8,1\n", encoding="utf-8")
    folder = tmp_path / "targets"
    folder.mkdir()
    file = {"absolute": str(table), "above": "../delays.csv", "link": "linked.csv"}[place]
    if place == "link":
        (folder / "linked.csv").symlink_to(table)
    data = json.loads(load_target("delay-table-template").to_json())
    data["cost"]["parameters"]["file"] = file
    with pytest.raises(TargetError, match=r"mine\.json.*outside the target's folder"):
        _load(folder, data)
