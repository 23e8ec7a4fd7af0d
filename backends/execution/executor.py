"""What every executor has in common: one batch in, outputs and codes out, by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from qir.backends.execution.session import OrtSession
from qir.module import Module
from qir.tensor import Array


@dataclass(frozen=True)
class Run:
    """What an executor computed of one batch.

    Attributes:
        outputs: the network's outputs by name.
        codes: intermediate integer tensors by value name, as far as the executor shows them.
    """

    outputs: dict[str, Array]
    codes: dict[str, Array] = field(default_factory=dict)


class Executor(Protocol):
    """Something that computes a network.

    The integer reference, ONNX Runtime, qir's executor of QONNX, torch and the simulation of files without codes are
    executors; `qir.passes.parity.executors` makes each of them by its name.
    """

    def run(self, feed: Mapping[str, Array], /) -> Run:
        """Compute one batch: arrays by the name of the network's inputs.

        Raises:
            DataError: an input is missing, does not fit, or a kernel fails.
        """


class OrtExecutor:
    """ONNX Runtime as an executor.

    Args:
        model: the network, a path of its file, or the file's bytes.
        codes: names of what shows codes → whether it is an output of the network too.
        **options: as for `OrtSession`.

    Raises:
        QirError: ONNX Runtime refuses the model; the message holds its reason.
    """

    def __init__(
        self,
        model: Module | str | Path | bytes,
        *,
        codes: Mapping[str, bool] | None = None,
        **options: Any,
    ) -> None:
        self.session = OrtSession(model, **options)
        shown = codes or {}
        self._codes = tuple(shown)
        self._outputs = tuple(name for name in self.session.output_names if shown.get(name, True))

    def run(self, feed: Mapping[str, Array], /) -> Run:
        """Return one batch; raises `DataError` as `OrtSession.run` does."""
        found = self.session.run(feed)
        return Run({name: found[name] for name in self._outputs}, {name: found[name] for name in self._codes})
