import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[3]


def _import(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"qir_test_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def oracle() -> ModuleType:
    return _import(ROOT / "benchmarks" / "oracle.py")


@pytest.fixture(scope="session")
def mutations() -> ModuleType:
    return _import(Path(__file__).parent / "mutations.py")
