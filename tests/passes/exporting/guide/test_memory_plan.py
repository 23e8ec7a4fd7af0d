"""Offsets of activations: nothing that lives at the same time overlaps, and the peak is near its lower bound."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import qir
import qir.models
from qir.backends import cost_table, load_target
from qir.backends.costs.tables.reports import peak_memory
from qir.backends.execution.random_feed import random_feed
from qir.fake_quant import policy_of
from qir.guide import MemoryGuide
from qir.passes import run_passes
from qir.passes.exporting.build_guide import build_guide
from qir.passes.exporting.memory_plan import Buffer, execution_order, plan_memory

lives = st.tuples(st.integers(1, 5000), st.integers(0, 30), st.integers(0, 12))


def buffers_of(entries) -> list[Buffer]:
    return [
        Buffer(f"t{i}", "", 8, size, size, first, first + length) for i, (size, first, length) in enumerate(entries)
    ]


@given(st.lists(lives, max_size=40))
@settings(max_examples=200, deadline=None)
def test_buffers_that_live_together_never_overlap(entries) -> None:
    buffers = buffers_of(entries)
    plan = plan_memory(buffers)
    placed = list(zip(buffers, plan.offsets, strict=True))
    for index, (one, start) in enumerate(placed):
        assert 0 <= start <= plan.peak - one.bytes
        for other, place in placed[:index]:
            assert not one.meets(other) or start + one.bytes <= place or place + other.bytes <= start
    alive = [sum(b.bytes for b in buffers if b.first <= step <= b.last) for step in range(50)]
    assert plan.lower_bound == max(alive) <= plan.peak


@given(st.lists(st.integers(1, 5000), min_size=1, max_size=20))
def test_a_chain_stays_near_the_lower_bound(sizes) -> None:
    buffers = buffers_of((size, step, 1) for step, size in enumerate(sizes))
    plan = plan_memory(buffers)
    assert plan.peak <= 1.5 * plan.lower_bound


def network(name: str) -> qir.Module:
    module = qir.load(qir.models.path(name))
    run_passes(module, "fold-constants,fold-batchnorm,insert-fake-quant,calibrate", data=random_feed(module, samples=1))
    return module


def memory(module: qir.Module) -> MemoryGuide:
    found = build_guide(module, weights_file="w.bin")[0].memory
    assert found is not None
    return found


@pytest.mark.parametrize("name", qir.models.names())
def test_networks_reach_the_lower_bound(name) -> None:
    found = memory(network(name))
    assert found.peak == found.lower_bound > 0


@pytest.mark.parametrize("name", ["lenet"])
def test_the_lower_bound_is_the_peak_of_the_cost_table(name) -> None:
    module, target = network(name), load_target("npu-148")
    table = cost_table(module, target)
    peak = float(peak_memory(table, [policy_of(module.graph)])[0])
    assert memory(module).lower_bound == pytest.approx(peak, abs=8)


def test_views_and_fused_activations_take_no_step_and_no_memory() -> None:
    module = network("lenet")
    assert {node.op for node in execution_order(module.graph)} == {"Conv", "MaxPool", "Gemm"}
    tensors = memory(module).tensors
    assert len({(buffer.name, buffer.quantizer) for buffer in tensors}) == len(tensors)
