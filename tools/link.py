"""Make `.link/qir`, a tree of links that shows type checkers and editors the import names of the top-level folders.

setuptools maps `passes/` to `qir.passes` and so on; mypy, pyright and editors read folders, not setuptools' mapping.
"""

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LINK = ROOT / ".link" / "qir"
LINK.mkdir(parents=True, exist_ok=True)
for link in LINK.iterdir():
    if not link.exists():  # what it showed has moved
        link.unlink()
for source in (*(ROOT / "qir").iterdir(), *(ROOT / name for name in ("passes", "backends", "search", "models", "cli"))):
    link = LINK / source.name
    if source.name != "__pycache__" and not link.exists():
        link.symlink_to(source)
