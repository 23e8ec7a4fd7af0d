from dataclasses import dataclass
from typing import ClassVar, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qir.errors import PassError
from qir.passes import Pass, Repeat, parse_pipeline, pipeline_text
from qir.passes.infrastructure.registry import PASSES


@dataclass(frozen=True)
class Options(Pass):
    name: ClassVar[str] = "options"
    count: int = 1
    rate: float = 0.5
    flag: bool = False
    text: str = "a"
    maybe: int | None = None
    widths: tuple[int, ...] = (8,)
    mode: Literal["x", "y"] = "x"

    def run(self, module, context):
        return False


@pytest.fixture(autouse=True, scope="module")
def _registered():
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PASSES._own, "options", Options)
        yield


def test_options_are_read_as_their_declared_types():
    (step,) = parse_pipeline(
        ' options { count = 3, rate=2, flag=true, text="a,b \\"c\\"", maybe=4, widths=[1,2, 4], mode=y } '
    )
    assert step == Options(count=3, rate=2.0, flag=True, text='a,b "c"', maybe=4, widths=(1, 2, 4), mode="y")


def test_a_scalar_stands_for_a_list_of_one():
    assert parse_pipeline("options{widths=4}") == [Options(widths=(4,))]


def test_repeat_holds_a_pipeline():
    assert parse_pipeline("repeat{limit=4}(options,options{count=2}),options") == [
        Repeat((Options(), Options(count=2)), limit=4),
        Options(),
    ]


@given(
    st.builds(
        Options,
        count=st.integers(),
        rate=st.floats(allow_nan=False),
        flag=st.booleans(),
        text=st.text(),
        maybe=st.none() | st.integers(),
        widths=st.lists(st.integers()).map(tuple),
        mode=st.sampled_from(["x", "y"]),
    )
)
def test_text_and_passes_round_trip(step):
    passes = [step, Repeat((step,), limit=3)]
    assert parse_pipeline(pipeline_text(passes)) == passes


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("options{", "name of an option"),
        ("options}", "comma or the end"),
        ("options,", "name of a pass"),
        ("options{count}", "expected '='"),
        ("options{count=a}", "expected a number"),
        ("options{count=1,count=2}", "given twice"),
        ("options{nope=1}", "no option 'nope'; its options: count"),
        ("options{flag=1}", "expected true or false"),
        ("options{mode=z}", "not one of x, y"),
        ("options{count=[1]}", "list was not expected"),
        ('options{text="a}', "closing quote"),
        ("repeat", "expected '\\('"),
        ("repeat{passes=3}(options)", "written as text|list"),
    ],
)
def test_malformed_text_is_refused(text, message):
    with pytest.raises(PassError, match=message):
        parse_pipeline(text)


def test_empty_text_is_not_a_pass():
    assert parse_pipeline("  ") == []
