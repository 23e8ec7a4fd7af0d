"""Everything is imported while the modules that only POSIX systems have are blocked, as on Windows."""

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
POSIX = ("resource", "fcntl", "pwd", "grp", "termios", "tty", "pty", "syslog", "posix_ipc", "readline", "crypt", "spwd")
FOLDERS = {"qir": "qir", "passes": "qir.passes", "backends": "qir.backends", "search": "qir.search",
           "models": "qir.models", "cli": "qir.cli"}  # fmt: skip

IMPORT_ALL = textwrap.dedent(
    """
    import importlib, importlib.abc, sys

    for name in {torch_first}:
        importlib.import_module(name)

    class Blocked(importlib.abc.MetaPathFinder):
        def find_spec(self, name, path=None, target=None):
            if name in {blocked}:
                raise ImportError(f"{{name}} is blocked")

    for name in {blocked}:
        sys.modules.pop(name, None)
    sys.meta_path.insert(0, Blocked())
    for name in {modules}:
        try:
            importlib.import_module(name)
        except ImportError as error:
            if "is blocked" in str(error):
                raise
    print("all imported")
    """
)


def modules():
    found = []
    for folder, package in FOLDERS.items():
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = [package, *path.relative_to(ROOT / folder).with_suffix("").parts]
            found.append(".".join(parts).removesuffix(".__init__"))
    return [name for name in found if not name.endswith("__main__")]


@pytest.mark.slow
def test_every_module_is_imported_without_what_only_posix_has():
    others = ("torch", "onnx", "onnxruntime", "scipy", "networkx", "pydantic", "typer", "rich")
    script = IMPORT_ALL.format(torch_first=others, blocked=POSIX, modules=modules())
    done = subprocess.run(
        [sys.executable, "-P", "-c", script], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.stdout.strip().endswith("all imported"), done.stderr[-2000:]


def test_modules_that_only_posix_has_are_imported_inside_functions_only():
    wrong = [
        f"{path}:{number}"
        for folder in FOLDERS
        for path in (ROOT / folder).rglob("*.py")
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if line.startswith(("import ", "from ")) and line.split()[1] in POSIX
    ]
    assert not wrong
