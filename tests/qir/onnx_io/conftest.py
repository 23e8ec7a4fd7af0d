from types import ModuleType

import pytest


@pytest.fixture(scope="session")
def oracle(script) -> ModuleType:
    return script("benchmarks/ir/oracle.py")
