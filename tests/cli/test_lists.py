"""`qir targets`, `recipes` and `profiles` list what other verbs can name, and show one."""

from __future__ import annotations

import pytest

from qir.backends import target_names
from qir.errors import QirError
from qir.passes.lowering.profiles.profiles import profile_names
from qir.search.recipes.table import RECIPES


@pytest.mark.parametrize(
    ("verb", "names"), [("targets", target_names()), ("recipes", list(RECIPES)), ("profiles", list(profile_names()))]
)
def test_every_name_is_listed_and_one_can_be_shown(shell, answer, verb, names):
    assert [entry["name"] for entry in answer(verb)] == list(names)
    listed = shell(verb).stdout
    assert all(name in listed for name in names)
    shown = shell(verb, names[0]).stdout
    assert names[0] in shown
    with pytest.raises(QirError, match="is unknown"):
        shell(verb, "no-such-thing")


def test_a_target_is_shown_with_its_sources(shell):
    shown = shell("targets", "bitfusion-e").stdout
    assert "500 MHz" in shown
    assert "source of" in shown
