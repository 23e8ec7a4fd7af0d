"""The cost models against published tables; skipped where the tables are absent."""

import importlib.util
import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
GOLDEN = Path(os.environ.get("QIR_GOLDEN", ROOT.parent / "shared" / "golden"))


def _golden():
    spec = importlib.util.spec_from_file_location("golden_costs", ROOT / "benchmarks" / "golden.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.skipif(not GOLDEN.exists(), reason="the published tables are not next to the repository")
@pytest.mark.parametrize("check", ["haq_bit_serial", "apq_bitfusion"])
def test_published_tables_are_reproduced(check: str) -> None:
    for holds, line in getattr(_golden(), check)():
        assert holds, line
