"""`qir explain`: why a tensor has its width, and what another would cost and lose."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from qir.cli.answers import Answer
from qir.errors import SearchError

if TYPE_CHECKING:
    from qir.search.report.explanation import Explanation
    from qir.support.terminal import Terminal


def explain(
    saved: Annotated[Path, typer.Argument(help="Record of a quantization (`--save`, .json).", show_default=False)],
    node: Annotated[str, typer.Argument(help="Layer or quantizer, such as conv1 or conv1.weight.", show_default=False)],
) -> Answer:
    """Say why a tensor has its width: what restricts it, which budget binds, what each other width costs and loses.

    The alternatives are exact: the best policy is found anew with the tensor held at each other width. `1 % more` of a
    budget tells its price at the margin. Policies that were measured are compared with the others that were.

    qir quantize lenet --data x.npy -t npu-148 -b latency=0.5x --save done.json

    qir explain done.json fc1
    """
    from qir.search import Quantized

    if saved.suffix != ".json":
        raise SearchError(f"{saved}: expected the record that `--save done.json` of qir quantize or qir search writes")
    found = Quantized.load(saved).explain(node)
    return Answer(found, partial(_show, found))


def _show(found: list[Explanation], terminal: Terminal) -> None:
    for explanation in found:
        for line in explanation.lines():
            terminal.print(line, soft_wrap=True)
