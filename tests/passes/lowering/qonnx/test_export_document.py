import re
from pathlib import Path

DOCUMENT = Path(__file__).resolve().parents[4] / "docs" / "guides" / "export.md"


def test_the_table_of_profiles_is_the_one_of_the_data(script):
    assert script("tools/documents/profiles.py").table() in DOCUMENT.read_text(encoding="utf-8"), (
        "run: python tools/documents/profiles.py"
    )


def test_the_table_of_fused_kernels_is_the_one_of_the_data(script):
    assert script("tools/documents/profiles.py").kernel_table() in DOCUMENT.read_text(encoding="utf-8"), (
        "run: python tools/documents/profiles.py"
    )


def test_the_python_of_the_document_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 2
    names: dict = {}
    for block in blocks:
        exec(compile(block, str(DOCUMENT), "exec"), names)
    assert (tmp_path / "out" / "lenet.quant.onnx").exists()
    assert (tmp_path / "out" / "lenet.finn.onnx").exists()
    assert capsys.readouterr().out.startswith("0 (")
