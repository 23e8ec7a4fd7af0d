"""Round trips held against onnx_ir and ONNX Runtime; the whole run is `pytest -m slow` or benchmarks/ir/oracle.py."""

import collections

import pytest

pytest.importorskip("onnx_ir")


def _run(oracle, paths):
    trips = collections.Counter()
    runs = collections.Counter()
    failures = []
    for path in paths:
        result = oracle.difference(path)
        outcome = oracle.outputs_agree(path)
        trips[result or "equal"] += 1
        runs[outcome] += 1
        if result or outcome == "differ":
            failures.append((path.parent.name, path.name, result, outcome))
    print(f"{len(paths)} models: {dict(trips)}, ONNX Runtime: {dict(runs)}")
    assert not failures


@pytest.mark.named_nodes
def test_bundled_models_come_back_as_onnx_ir_reads_them_and_compute_the_same(oracle):
    _run(oracle, oracle.bundled_models()[::16])


@pytest.mark.slow
def test_all_bundled_models_come_back_as_onnx_ir_reads_them_and_compute_the_same(oracle):
    _run(oracle, oracle.bundled_models())
