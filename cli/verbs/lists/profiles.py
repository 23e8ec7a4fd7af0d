"""`qir profiles`: the forms in which a quantized network can leave."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from qir.cli.answers import Answer

if TYPE_CHECKING:
    from qir.passes.lowering.profiles.profiles import Profile
    from qir.support.terminal import Terminal


def profiles(name: Annotated[str | None, typer.Argument(help="Profile to show.")] = None) -> Answer:
    """List the export profiles that `--profile` can name, or show one: what it holds, needs and is checked by.

    qir profiles qcdq
    """
    from qir.passes.lowering.profiles.profiles import find_profile
    from qir.passes.lowering.profiles.profiles import profiles as known

    if name is not None:
        found = find_profile(name)
        return Answer(found.model_dump(mode="json"), partial(_show, found))
    every = list(known())
    return Answer([profile.model_dump(mode="json") for profile in every], partial(_list, every))


def _list(known: list[Profile], terminal: Terminal) -> None:
    width = max(len(profile.name) for profile in known)
    for profile in known:
        terminal.print(f"{profile.name:{width}}  opset {profile.opset}  {profile.description}", soft_wrap=True)


def _show(profile: Profile, terminal: Terminal) -> None:
    session = ", ".join(f"{key}={value}" for key, value in profile.session.items())
    lines = {
        "profile": profile.name,
        "what": profile.description,
        "opset": f"{profile.opset} or newer",
        "weights": ", ".join(profile.weights),
        "activations": ", ".join(profile.activations),
        "emulated": ", ".join(profile.emulates) or "nothing: what it cannot hold is refused",
        "runs in": "ONNX Runtime" if profile.runs_in == "onnxruntime" else "qir's executor of QONNX",
        "compared": "every intermediate code" if profile.codes == "compared" else "the outputs",
        "session": session or "no option is needed",
        "passes": profile.passes,
    }
    for label, text in lines.items():
        terminal.print(f"{label:14}{text}", soft_wrap=True)
