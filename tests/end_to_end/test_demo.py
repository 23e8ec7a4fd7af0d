"""The demo, shortened: everything it promises is written, and its search obeys the budget."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_the_demo_writes_model_guide_weights_and_report(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "examples" / "demo.py"), "--episodes", "2", "--output", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["model.guide.json", "model.quant.onnx", "model.weights.bin", "report.html"]
    guide = json.loads((tmp_path / "model.guide.json").read_text())
    assert guide["total_cycles"] <= 0.35 * 24111.0
    assert "Bits per layer" in (tmp_path / "report.html").read_text()
    assert all(row in done.stdout for row in ("fp32", "uniform 8/8", "random, 2 evaluations", "rl, 2 evaluations"))
    assert len((ROOT / "examples" / "demo.py").read_text().splitlines()) < 60
