"""`qir target`: a vendor writes a file, is told what it leaves out, measures, and fits."""

from __future__ import annotations

import json

import pytest

from qir.backends import load_target
from qir.errors import TargetError


@pytest.fixture
def described(tmp_path, shell):
    """The smallest file, with changes."""

    def make(**changes):
        path = tmp_path / "my-npu.json"
        path.unlink(missing_ok=True)
        shell("target", "new", path)
        content = json.loads(path.read_text(encoding="utf-8"))
        for key, value in changes.items():
            content.pop(key, None)
            if value is not None:
                content[key] = value
        path.write_text(json.dumps(content), encoding="utf-8")
        return path

    return make


def test_the_smallest_file_works_and_quantizes(described, answer):
    path = described()
    assert load_target(path).name == "my-npu"
    assert answer("cost", "lenet", "--target", path)["policies"]["8/8"]["totals"]["cycles"] > 0


def test_a_new_file_can_begin_with_a_shipped_target(tmp_path, shell):
    shell("target", "new", tmp_path / "mine.json", "--like", "ethos-u55-128-like")
    assert load_target(tmp_path / "mine.json").cost == load_target("ethos-u55-128-like").cost


def test_a_file_that_exists_is_kept(described, shell):
    with pytest.raises(TargetError, match="exists"):
        shell("target", "new", described())


def test_every_key_that_is_left_out_is_named_with_what_is_assumed(described, answer):
    left_out = {entry["key"]: entry["assumed"] for entry in answer("target", "check", described())["assumed"]}
    assert {"pairs", "clock_hz", "cost.parameters.efficiency", "cost.parameters.mac_pj"} <= left_out.keys()
    assert "fused_ops" not in left_out
    assert left_out["cost.parameters.efficiency"] == "1.0"


def test_what_activations_cost_without_fused_ops_is_said(described, shell, answer):
    def cycles(path):
        return answer("cost", "resnet-20", "-t", path)["policies"]["8/8"]["totals"]["cycles"]

    with_ops, path = cycles(described()), described(fused_ops=None)
    charged = answer("target", "check", path, "--network", "resnet-20")["charged"]
    assert charged == pytest.approx(cycles(path) / with_ops - 1)
    assert charged > 0.1
    assert "names no fused_ops" in shell("cost", "resnet-20", "-t", path).stdout


def test_pairs_may_be_given_by_name(described):
    path = described(pairs=[{"activations": 8, "weights": 4}, [8, 8]])
    assert load_target(path).pairs == ((8, 4), (8, 8))


def test_without_figures_of_energy_there_is_none(described, answer):
    totals = answer("cost", "lenet", "-t", described())["policies"]["8/8"]["totals"]
    assert "energy, uJ" not in totals


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"weight_widths": [8, 4]}, r"key weight_widths is \[8, 4\]; expected ascending"),
        ({"pairs": [[3, 4]]}, r"key pairs holds \[3, 4\]"),
        ({"pairs": []}, "key 'pairs': expected at least one legal pair"),
        ({"memories": [{"name": "dram"}]}, r"key 'memories\[0\].bits_per_cycle' is missing"),
        ({"weight_widths": 8}, "key 'weight_widths': expected a list, found 8"),
        ({"memories": {"name": "dram"}}, "key 'memories': expected a list"),
        ({"ops": {"Conv": 3}}, "key 'ops.Conv': expected an object"),
        ({"reduce_range": "perhaps"}, "key 'reduce_range': expected true or false"),
        ({"fused": ["Relu"]}, "unknown key 'fused': did you mean 'fused_ops'"),
    ],
)
def test_messages_speak_of_json_and_of_the_key(described, shell, changes, said):
    with pytest.raises(TargetError, match=said):
        shell("target", "check", described(**changes))
