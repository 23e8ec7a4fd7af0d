from types import ModuleType

import pytest


@pytest.fixture(scope="session")
def oracle(script) -> ModuleType:
    return script("benchmarks/ir/oracle.py")


@pytest.fixture(scope="session")
def mutations(script) -> ModuleType:
    return script("tests/qir/onnx_io/mutations.py")
