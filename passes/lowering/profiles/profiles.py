"""Export profiles: what each can hold and which passes lower to it, read from `profiles.json`.

A profile is an entry in that file: its name, its lowering passes as a pipeline text, the operator set it needs, the
element types that hold codes, and what it may emulate. What a runtime refuses stands there too, by its version, so
that a new version is an entry and no code.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib import resources
from typing import Literal

from pydantic import Field

from qir.errors import ExportError
from qir.registry import Registry
from qir.support.record import Record

Emulation = Literal["levels", "tables", "channel-widths", "mid-rise", "blocks"]
"""What a profile may compute exactly by other means: weights whose levels are multiples of a step, tables that are
looked up, widths per channel, odd codes of activations, blocks of scales along a weight."""


class Refusal(Record):
    """Element types around an op that a runtime refuses to load or computes wrongly; an empty tuple stands for any.

    Attributes:
        ops: op types: layers, ops whose result is quantized, or ops that keep the grid of a quantized operand.
        weights: element types of a layer's weight.
        activations: element types of the codes of the operand or of the result.
        lifted_by: session options with which the runtime takes it after all.
    """

    ops: tuple[str, ...]
    weights: tuple[str, ...]
    activations: tuple[str, ...]
    lifted_by: dict[str, str] = Field(default_factory=dict)

    def covers(self, op: str, weight: str, activation: str) -> bool:
        """Return whether a layer with these element types is refused."""
        asked = ((self.ops, op), (self.weights, weight), (self.activations, activation))
        return all(not names or name in names for names, name in asked)


class Runtime(Record):
    """What a runtime holds from a version on.

    Attributes:
        name: of the runtime.
        since: first version that the entry describes, `major.minor`.
        opset: newest version of ONNX's operator set that it loads.
        source: where the entry comes from.
        refused: what it does not load.
    """

    name: str
    since: str
    opset: int
    source: str
    refused: tuple[Refusal, ...] = ()

    def refuses(self, op: str, weight: str, activation: str, session: Mapping[str, str]) -> bool:
        """Return whether it does not take a layer with these element types under these session options."""
        refused = (refusal for refusal in self.refused if not (refusal.lifted_by.items() & session.items()))
        return any(refusal.covers(op, weight, activation) for refusal in refused)


class Profile(Record):
    """One way for a network to leave.

    Attributes:
        name: of the profile.
        description: what it is, for people.
        passes: pipeline text of the lowering, run after `legalize`.
        before: pipeline text that is run before it.
        opset: oldest version of ONNX's operator set that the file needs.
        weights: element types that may hold a weight's codes, the preferred first; `float32` = computed in float.
        activations: the same for activations; none where they stay float.
        accumulator_bits: width of the sums that the proven bounds of every layer must fit.
        emulates: what is computed exactly by other means and marked, where the rest is refused.
        zero_points: `native`, or `clipped` where an activation's grid with a zero point is cut out of a wider one
            without (marked emulated).
        simulated: nothing runs on integers; every layer is marked emulated.
        runs_in: what runs the file for the comparison: ONNX Runtime, or qir's executor of QONNX.
        codes: `compared` where the file holds every intermediate code as the integer reference reads it; `products`
            where weights alone have codes, and each product with blocks of them is computed again; otherwise the
            outputs are compared.
        session: session options without which ONNX Runtime does not load the file.
        source: language in which the network is written next to the file, from its guide; empty = none.
    """

    name: str
    description: str
    passes: str
    opset: int
    before: str = ""
    weights: tuple[str, ...]
    activations: tuple[str, ...]
    accumulator_bits: int = 32
    emulates: tuple[Emulation, ...] = ()
    zero_points: Literal["native", "clipped"] = "native"
    simulated: bool = False
    runs_in: Literal["onnxruntime", "qir"] = "onnxruntime"
    codes: Literal["compared", "products", "hidden"] = "hidden"
    session: dict[str, str] = Field(default_factory=dict)
    source: Literal["", "c99"] = ""

    def for_weights_alone(self) -> Profile:
        """Return the profile for a network whose activations are float.

        No session option is needed then, and nothing but products can be compared.
        """
        return self.model_copy(update={"session": {}, "codes": "products"}) if self.codes == "compared" else self


class _Table(Record):
    format: Literal["qir.profiles"]
    version: Literal[1]
    runtimes: tuple[Runtime, ...]
    profiles: tuple[Profile, ...]


@cache
def _table() -> _Table:
    text = (resources.files("qir.passes.lowering.profiles") / "profiles.json").read_text(encoding="utf-8")
    return _Table.model_validate_json(text)


@cache
def _profiles() -> Registry[Profile]:
    """Profiles by name, the default first; one of another package is an entry point of the group `qir.profiles`."""
    return Registry(
        "export profile",
        "qir.profiles",
        {profile.name: profile for profile in _table().profiles},
        accepts=lambda found: isinstance(found, Profile),
        expected="a qir.passes.lowering.profiles.profiles.Profile",
        error=ExportError,
    )


def profile_names() -> tuple[str, ...]:
    """Return names of all profiles, the default first."""
    return tuple(_profiles())


def find_profile(name: str) -> Profile:
    """Return the profile with this name.

    Raises:
        ExportError: there is none.
    """
    return _profiles()[name]


def profiles() -> tuple[Profile, ...]:
    """Return all profiles."""
    return tuple(map(find_profile, profile_names()))


def runtime_at(version: str) -> Runtime:
    """Return what ONNX Runtime holds at a version, `major.minor` and whatever follows.

    Raises:
        ExportError: the version is older than every entry.
    """
    entries = [entry for entry in _table().runtimes if entry.name == "onnxruntime"]
    fitting = [entry for entry in entries if version_number(entry.since) <= version_number(version)]
    if not fitting:
        raise ExportError(f"onnxruntime {version} is too old: exports are checked with {entries[0].since} or newer")
    return max(fitting, key=lambda entry: version_number(entry.since))


def version_number(version: str) -> tuple[int, ...]:
    """Major and minor number of a version, for comparisons."""
    return tuple(int(part) for part in version.split(".")[:2])
