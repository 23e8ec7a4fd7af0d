"""Damaged files of every kind are read or refused: no crash, no hang, no other exception, no memory beyond a limit.

The quick tests try a few mutations of each kind; the slow ones as many as `QIR_FUZZ=first:last` says, in processes with
limits, and print what came out: `QIR_FUZZ=0:10000 pytest -m slow -s tests/fuzz -k text`.
"""

import contextlib
import os
from pathlib import Path

import pytest
from commands import VERBS
from kinds import KINDS
from watch import try_all, try_one

from qir.errors import QirError

FEW = 15
OTHERS = {"onnx": 150, "text": 60, "job": 2, "store": 5, "result": 5}
"""Cases of the quick tests: more of what is read most, fewer where one takes a good part of a second."""

FOUND = sorted(path for path in (Path(__file__).parent / "found").rglob("*") if path.is_file())


@pytest.mark.parametrize("path", FOUND, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_a_file_that_once_escaped_is_read_or_refused(path, tmp_path):
    damaged = tmp_path / path.name
    damaged.write_bytes(path.read_bytes())
    with contextlib.suppress(QirError):
        KINDS[path.parent.name].read(damaged)


@pytest.mark.parametrize("name", sorted(KINDS))
def test_a_few_damaged_files_are_read_or_refused(root, name):
    for index in range(OTHERS.get(name, FEW)):
        outcome, place, told = try_one(root, name, index)
        assert outcome in {"read", "refused"}, f"case {index}: {place}\n{told}"


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted({*KINDS, *VERBS}))
def test_many_damaged_files_are_read_or_refused(all_seeds, name):
    first, last = map(int, os.environ.get("QIR_FUZZ", "0:200" if name in KINDS else "0:30").split(":"))
    tally = try_all(all_seeds, name, first, last)
    print(f"\n{name}: {tally}")
    assert not tally.findings, str(tally)
