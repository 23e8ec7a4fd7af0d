"""Files appear whole or not at all."""

import errno

import pytest

from qir.errors import ModelFileError, QirError
from qir.support.atomic_write import atomic_write


def test_a_file_appears_with_its_folder(tmp_path):
    with atomic_write(tmp_path / "new" / "folder" / "x.txt") as file:
        file.write_text("whole")
        assert not (tmp_path / "new" / "folder" / "x.txt").exists()
    assert [path.name for path in (tmp_path / "new" / "folder").iterdir()] == ["x.txt"]
    assert (tmp_path / "new" / "folder" / "x.txt").read_text() == "whole"


def write_half(path, failure):
    with atomic_write(path, ModelFileError) as file:
        file.write_text("half")
        raise failure


@pytest.mark.parametrize("failure", [OSError(errno.ENOSPC, "disk full"), KeyboardInterrupt(), ValueError()])
def test_what_fails_leaves_the_older_file_and_nothing_else(tmp_path, failure):
    (tmp_path / "x.txt").write_text("old")
    with pytest.raises(ModelFileError if isinstance(failure, OSError) else type(failure)):
        write_half(tmp_path / "x.txt", failure)
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("x.txt", "old")]


def test_a_folder_or_a_file_in_the_way_is_named(tmp_path):
    with pytest.raises(QirError, match="is a folder"), atomic_write(tmp_path):
        pass
    (tmp_path / "file").touch()
    with pytest.raises(QirError, match="is not a folder"), atomic_write(tmp_path / "file" / "deep" / "x.txt"):
        pass
