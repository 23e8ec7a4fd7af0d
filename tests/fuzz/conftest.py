"""Seeds of the mutations, made once; the modules of this folder are imported by its tests and by their processes."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="session")
def root(tmp_path_factory):
    """Folder of the seeds."""
    return tmp_path_factory.mktemp("fuzz") / "seeds"


@pytest.fixture(scope="session")
def all_seeds(root):
    """The same, with the seeds of every kind."""
    from seeds import make_all

    make_all(root)
    return root
