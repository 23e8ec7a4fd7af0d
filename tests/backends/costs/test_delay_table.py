"""Delay tables survive every layout, and refuse networks that they do not cover."""

from pathlib import Path

import numpy as np
import pytest

import qir
from qir.backends import ConvShape, cost_table, load_target
from qir.backends.costs.fitting import fit
from qir.backends.costs.tables.delay_files import (
    COLUMNS,
    SHAPE_COLUMNS,
    DelayTable,
    delays_of,
    read_delay_table,
    read_hawq_latencies,
)
from qir.errors import TargetError

LENET = Path(__file__).resolve().parents[3] / "models" / "trained" / "lenet_fashion_mnist.onnx"

HEAD = ",".join((*COLUMNS, *SHAPE_COLUMNS)) + "\n"


def _target(tmp_path: Path, table: DelayTable, name: str = "mine.csv", widths: tuple[int, ...] = (1, 4, 8)):
    table.write(tmp_path / name)
    template = load_target("delay-table-template")
    cost = template.cost.model_copy(update={"parameters": {"file": name}})
    changes = {"name": "mine", "cost": cost}
    if name.endswith(".npy"):
        changes |= {"weight_widths": widths, "activation_widths": widths, "pairs": None}
    template.model_copy(update=changes).save(tmp_path / "mine.json")
    return load_target(tmp_path / "mine.json")


@pytest.mark.parametrize("suffix", [".csv", ".json"])
def test_table_of_a_network_survives_a_round_trip(tmp_path: Path, suffix: str) -> None:
    table = cost_table(qir.load(LENET), "npu-148")
    delays = delays_of(table)
    delays.write(tmp_path / f"table{suffix}")
    assert read_delay_table(tmp_path / f"table{suffix}").delays == delays.delays


def test_haq_layout_survives_a_round_trip(tmp_path: Path) -> None:
    module = qir.load(LENET)
    delays_of(cost_table(module, "bismo-16x16x256")).write(tmp_path / "haq.npy")
    array = np.load(tmp_path / "haq.npy")
    assert array.shape == (4, 8, 8)
    target = _target(tmp_path, read_delay_table(tmp_path / "haq.npy"), "again.npy", tuple(range(1, 9)))
    again = cost_table(module, target)
    rows = [row for row in again.rows(again.uniform(3, 5)) if row.weight_bits]
    assert [row.cycles for row in rows] == array[:, 4, 2].tolist()


def test_table_costs_what_it_holds(tmp_path: Path) -> None:
    module = qir.load(LENET)
    source = cost_table(module, "npu-148")
    table = cost_table(module, _target(tmp_path, delays_of(source)))
    wanted = sum(row.cycles for row in source.rows(source.uniform(4, 4)) if row.weight_bits)
    assert table.cost([table.uniform(4, 4)])[0] == pytest.approx(wanted)


def test_missing_and_wrong_layers_are_named(tmp_path: Path) -> None:
    module = qir.load(LENET)
    delays = dict(delays_of(cost_table(module, "npu-148")).delays)
    first = next(iter(delays))
    short = {name: cells for name, cells in delays.items() if name != first}
    with pytest.raises(TargetError, match=r"is missing: did you mean"):
        cost_table(module, _target(tmp_path, DelayTable(short)))
    with pytest.raises(TargetError, match="has no layer 'stranger': expected one of"):
        cost_table(module, _target(tmp_path, DelayTable(delays | {"stranger": delays[first]})))


@pytest.mark.named_nodes
def test_a_misspelt_layer_names_the_nearest(tmp_path: Path) -> None:
    module = qir.load(LENET)
    delays = dict(delays_of(cost_table(module, "npu-148")).delays)
    cells = delays.pop("/fc1/Gemm")
    with pytest.raises(TargetError, match="'/fc1/Gemm' is missing: did you mean '/fc1/Gem'"):
        cost_table(module, _target(tmp_path, DelayTable({"/fc1/Gem": cells} | delays)))


def test_damaged_tables_are_refused(tmp_path: Path) -> None:
    for name, text in (
        ("a.csv", "layer,weight_bit\nx,1\n"),
        ("b.csv", "layer,weight_bits,activation_bits,delay\nx,8,8,fast\n"),
        ("c.csv", "layer,weight_bits,activation_bits,delay\nx,8,8,-1\n"),
        ("d.csv", "layer,weight_bits,activation_bits,delay\nx,8,8,1\nx,8,8,2\n"),
        ("e.json", "{}"),
        ("f.npy", "no array"),
        ("g.txt", ""),
        ("h.csv", "layer,weight_bits,activation_bits,delay,in_channels\nx,8,8,1,3\n"),
        ("i.csv", HEAD + "x,8,8,1,3,4,8,8,three,1x1,0x0x0x0,1,1\n"),
        ("j.csv", HEAD + "x,8,8,1,3,4,2,2,3x3,1x1,0x0x0x0,1,1\n"),
        ("k.csv", HEAD + "x,8,8,nan,3,4,8,8,3x3,1x1,0x0x0x0,1,1\n"),
    ):
        (tmp_path / name).write_text(text, encoding="utf-8")
        with pytest.raises(TargetError, match="delay table"):
            read_delay_table(tmp_path / name)
    with pytest.raises(TargetError, match="cannot be read"):
        read_delay_table(tmp_path / "absent.csv")


def test_published_gpu_latencies_are_imported(tmp_path: Path) -> None:
    (tmp_path / "t4.json").write_text('{"latency_int4": [0.2, 0.1], "latency_int8": [0.3, 0.2]}', encoding="utf-8")
    table = read_hawq_latencies(tmp_path / "t4.json", ["first", "second"])
    assert table.at("second", 8, 8) == 0.2
    with pytest.raises(TargetError, match="expected latency_int4"):
        read_hawq_latencies(tmp_path / "absent.json")


def test_fit_explains_measurements_of_a_slower_memory() -> None:
    module = qir.load(LENET)
    target = load_target("npu-148")
    memory = target.outermost_memory.model_copy(update={"bits_per_cycle": 64.0})
    slow = target.model_copy(update={"memories": (memory,)})
    result = fit(target, delays_of(cost_table(module, slow)), module)
    assert result.parameters["bits_per_cycle"] < 0.5 * target.outermost_memory.bits_per_cycle
    assert all(worst < 0.05 for _, _, worst in result.residuals.values())


def test_fit_names_an_unknown_parameter() -> None:
    with pytest.raises(TargetError, match="depth"):
        fit(load_target("npu-148"), DelayTable({}), qir.load(LENET), parameters=["dept"])


def test_shapes_survive_a_round_trip(tmp_path: Path) -> None:
    shapes = {"x": ConvShape(3, 4, 8, 8, (3, 3), (2, 2), (1, 0, 1, 0), batch=2)}
    table = DelayTable({"x": {(8, 8): 1.5}, "y": {(8, 8): 2.0}}, shapes=shapes)
    table.write(tmp_path / "t.csv")
    assert read_delay_table(tmp_path / "t.csv") == table


def test_fit_needs_no_network_where_the_table_holds_shapes(tmp_path: Path) -> None:
    target = load_target("systolic-16x16")
    shapes = {f"c{n}": ConvShape(n, n, 14, 14, (3, 3), padding=(1, 1)) for n in (16, 32, 64)}
    shapes |= {f"d{n}": ConvShape(n, n, 14, 14, (3, 3), padding=(1, 1), groups=n) for n in (16, 32)}
    shapes |= {"f": ConvShape(64, 10, 1, 1, fully_connected=True)}
    memory = target.outermost_memory.model_copy(update={"bits_per_cycle": 8.0})
    slow = target.model_copy(update={"memories": (memory,)}).cost_model()
    cells = {name: {(8, 8): 3 * slow.layer_cost(shape, 8, 8).cycles} for name, shape in shapes.items()}
    DelayTable(cells, shapes=shapes).write(tmp_path / "mine.csv")
    found = fit(target, tmp_path / "mine.csv")
    assert found.parameters["bits_per_cycle"] == pytest.approx(8, rel=0.05)
    assert found.scale == pytest.approx(3, rel=0.05)
    assert {name: residual.entries for name, residual in found.residuals.items()} == {
        "convolution": 3,
        "depthwise": 2,
        "fully connected": 1,
    }
    assert all(residual.median < 0.05 for residual in found.residuals.values())
    with pytest.raises(TargetError, match="shape of layer 'c16' is not known: give the network"):
        fit(target, DelayTable(cells))


BARE = "layer,weight_bits,activation_bits,delay\n"
ONE_LAYER = '{"layer": "a", "delays": []}'
JSON_HEAD = '"format": "qir.delay-table", "version": 1'


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", BARE, "holds no layer"),
        ("a.csv", BARE + "a,8,8\n", "line 2: column 'delay' is None; expected a number"),
        ("a.csv", BARE + "a,8.5,8,1\n", "line 2: column 'weight_bits' is '8.5'; expected a whole number"),
        ("a.csv", BARE + "a,-8,8,1\n", "expected at least 1"),
        ("a.csv", BARE + ",8,8,1\n", "has no name"),
        ("a.json", "[]", "expected format"),
        (
            "a.json",
            f'{{{JSON_HEAD}, "layers": [{{"layer": "a", "delays": []}}, {{"layer": "a", "delays": []}}]}}',
            "there twice",
        ),
    ],
)
def test_files_that_are_not_table_are_refused(tmp_path: Path, name: str, text: str, message: str) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(TargetError, match=message):
        read_delay_table(tmp_path / name)


def test_tables_of_spreadsheets_are_read(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(
        "\ufefflayer, weight_bits, activation_bits, delay\na, 8.0, 8, 1\n", encoding="utf-8"
    )
    assert read_delay_table(tmp_path / "a.csv").at("a", 8, 8) == 1
