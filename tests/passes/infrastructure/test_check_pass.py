import itertools
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest

from qir.errors import PassError, VerifyError
from qir.passes import Pass, PassManager, check_pass, parse_pipeline, replay
from qir.passes.simplify.canonicalize import SIMPLIFY
from qir.passes.simplify.fold.batchnorm import FoldBatchNorm
from qir.tensor import Tensor

NOISE = itertools.count(1)
"""Another number at every run, as clocks and unseeded generators give."""


@dataclass(frozen=True)
class Misbehave(Pass):
    name: ClassVar[str] = "misbehave"
    how: str = "outputs"

    def run(self, module, context):
        weight = next(v for v in module.graph.constants if v.name == "w")
        if self.how == "outputs":
            weight.constant = Tensor.of(weight.constant.numpy() * 2)
        elif self.how == "silent":
            weight.constant = Tensor.of(weight.constant.numpy())
            return False
        elif self.how == "invalid":
            weight.name = "x"
        elif self.how == "random":
            weight.constant = Tensor.of(weight.constant.numpy() + np.float32(next(NOISE)))
        return True


@pytest.fixture
def module(builder):
    b = builder()
    return b.module(b.bn(b.node("Conv", [b.input("x", [1, 2, 5, 5]), b.normal("w", 3, 2, 3, 3)]), 3))


def test_a_good_pass_is_measured(module):
    checked = check_pass(FoldBatchNorm(), module)
    assert checked.changed
    assert checked.largest_error < 1e-6


@pytest.mark.parametrize(
    ("how", "error", "message"),
    [
        ("outputs", PassError, "changed the outputs"),
        ("silent", PassError, "returned False and wrote"),
        ("invalid", VerifyError, "unique-name"),
        ("random", PassError, "two different modules"),
    ],
)
def test_a_broken_contract_is_told(module, how, error, message):
    with pytest.raises(error, match=message):
        check_pass(Misbehave(how=how), module)


@pytest.mark.parametrize("name", SIMPLIFY.split(","))
def test_own_passes_keep_the_contract(module, name):
    check_pass(parse_pipeline(name)[0], module)


def test_a_failure_is_repeated_from_its_folder(module, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "qir.passes.infrastructure.pipeline.find_pass", lambda name: Misbehave if name == "misbehave" else FoldBatchNorm
    )
    with pytest.raises(PassError, match="--replay"):
        PassManager([FoldBatchNorm(), Misbehave(how="invalid")], reproducers=tmp_path / "failed").run(module)
    (folder,) = (tmp_path / "failed").iterdir()
    with pytest.raises(PassError, match="unique-name"):
        replay(folder)


def test_a_folder_without_reproducer_is_refused(tmp_path):
    with pytest.raises(PassError, match="no reproducer is here"):
        replay(tmp_path)
