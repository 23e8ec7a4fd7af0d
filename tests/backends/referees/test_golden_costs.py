"""The cost models against published tables; skipped where the tables are absent."""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
GOLDEN = Path(os.environ.get("QIR_GOLDEN", ROOT.parent / "shared" / "golden"))


@pytest.mark.skipif(not GOLDEN.exists(), reason="the published tables are not next to the repository")
@pytest.mark.parametrize("check", ["haq_bit_serial", "apq_bitfusion"])
def test_published_tables_are_reproduced(check: str, script) -> None:
    for holds, line in getattr(script("benchmarks/costs/golden.py"), check)():
        assert holds, line
