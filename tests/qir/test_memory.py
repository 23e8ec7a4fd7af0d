"""The memory budget of the process: text, what is left, and refusals that say what is needed."""

import pytest

from qir import memory
from qir.errors import QirError
from qir.memory import MemoryBudget, budgeted, memory_budget, resident


@pytest.mark.parametrize(
    ("text", "total"),
    [("2GB", 2 * 10**9), ("1.5GiB", 3 << 29), ("800M", 800 * 10**6), ("512 mib", 512 << 20), (4096, 4096), ("7B", 7)],
)
def test_a_budget_is_bytes_or_text(text, total):
    assert MemoryBudget.parse(text).total == total


@pytest.mark.parametrize("text", ["", "much", "0", "-1GB", "2XB", "GB", 0, "1e9"])
def test_other_text_is_refused_with_an_example(text):
    with pytest.raises(QirError, match=r"expected more than 0 bytes, for example 2GB"):
        MemoryBudget.parse(text)


def test_what_is_left_counts_what_the_process_takes():
    before = MemoryBudget(resident() + (512 << 20)).left
    budget = MemoryBudget(resident() + (512 << 20))
    block = bytearray(128 << 20)
    block[::4096] = b"x" * len(block[::4096])
    assert 100 << 20 < before - budget.left < 200 << 20
    assert MemoryBudget(1).left == 0
    assert budget.share(1 << 40) <= budget.left // 2 + (16 << 20)
    assert budget.share(7) == 7


def test_work_that_does_not_fit_is_refused_with_the_bytes_that_are_needed():
    MemoryBudget(resident() + (256 << 20)).require(64 << 20, "one sample")
    with pytest.raises(QirError, match=r"one sample takes about 1\.0 GiB.*give at least [\d,.]+ GiB \(memory=, --mem"):
        MemoryBudget(resident() + (256 << 20)).require(1 << 30, "one sample")


def test_the_budget_in_force_is_found_by_context():
    with budgeted("3GB"):
        assert memory_budget().total == 3 * 10**9
        with budgeted(None):
            assert memory_budget().total == 3 * 10**9
        with budgeted(5):
            assert memory_budget() == MemoryBudget(5)
        assert memory_budget().total == 3 * 10**9
    assert memory_budget().total != 3 * 10**9


def test_without_a_budget_it_is_half_of_what_is_free_and_of_a_control_group(monkeypatch):
    monkeypatch.setattr(memory, "_of_machine", lambda: 10 << 30)
    monkeypatch.setattr(memory, "_of_groups", lambda: iter([8 << 30, 2 << 30]))
    assert abs(memory_budget().total - resident() - (1 << 30)) < 8 << 20
    monkeypatch.setattr(memory, "_of_groups", lambda: iter([]))
    assert abs(memory_budget().total - resident() - (5 << 30)) < 8 << 20


def test_limits_of_control_groups_count_cached_files_as_free(tmp_path, monkeypatch):
    def group(folder, limit, usage, cached):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "memory.max").write_text(f"{limit}\n")
        (folder / "memory.current").write_text(f"{usage}\n")
        (folder / "memory.stat").write_text(f"anon 5\ninactive_file {cached}\n")

    group(tmp_path, "max", 900, 0)
    group(tmp_path / "user", 1000, 700, 300)
    group(tmp_path / "user" / "job", 800, 790, 0)
    listing = tmp_path / "cgroup"
    listing.write_text("0::/user/job\n")
    monkeypatch.setattr(memory, "_GROUPS", ((str(tmp_path), "", "memory.max", "memory.current", "inactive_file"),))
    monkeypatch.setattr(memory, "_MEMBERSHIP", listing)
    assert sorted(memory._of_groups()) == [10, 600]
