"""AutoQNN (Gong et al., 2024): schemes searched and bits learned by gradient (QSS and QPL, Algorithm 2).

The network comes with fake-quant nodes already inserted (QAG is `insert-fake-quant{placement=qag}`) and calibrated.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from qir.backends.torch.module import TorchModule
from qir.backends.torch.quantizers import get_torch_scheme
from qir.errors import SearchError
from qir.fake_quant import FakeQuant, quantizers
from qir.granularity import PerBlock
from qir.module import Module
from qir.policy import Policy
from qir.quantizers import get_scheme
from qir.search.gradient.autoqnn_protocol import AutoQnnProtocol, PrecisionSearch, SchemeSearch
from qir.search.gradient.differentiable_cost import ExpectedCost, average_bits, precision_loss
from qir.search.gradient.learned_bits import FollowingBits, LearnedBits
from qir.search.gradient.relaxed import Relaxation, RunningGrid, SoftChoice, temperature
from qir.search.gradient.relaxed_training import Progress, RelaxedTraining
from qir.search.gradient.rounding import round_within

CANDIDATES = ("binary", "ternary", "quaternary", "fixedq", "zoomq", "clipq", "potq", "resq")
"""The paper's eight schemes; the first three have one width each, 1, 2 and 2 bits, and serve weights alone."""


@dataclass
class AutoQnn:
    """One run of Algorithm 2 on a network.

    Args:
        module: network with fake-quant nodes; not changed before `finish`.
        images: float32 [N, ...] of the retraining split.
        labels: int64 [N].
        protocol: how to train.
        progress: told after every epoch.

    Raises:
        DataError: images and labels do not match.
        SearchError: the network has no quantizer with more than one width.
    """

    module: Module
    images: NDArray[np.float32]
    labels: NDArray[np.int64]
    protocol: AutoQnnProtocol = field(default_factory=AutoQnnProtocol)
    progress: Progress | None = None
    network: TorchModule = field(init=False)
    nodes: dict[str, FakeQuant] = field(init=False)
    _training: RelaxedTraining = field(init=False)
    _grids: dict[str, RunningGrid] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        plan = self.protocol
        self.network = TorchModule(self.module)
        self._training = RelaxedTraining(
            self.network,
            self.images,
            self.labels,
            plan.batch,
            plan.learning_rate,
            plan.momentum,
            plan.seed,
            self.progress,
        )
        self.quantizers = quantizers(self.module.graph)
        if not self.decided:
            raise SearchError(
                "AutoQNN: no quantizer has more than one width; insert fake-quant nodes with candidate widths"
            )

    @cached_property
    def elements(self) -> dict[str, int]:
        """Values of each quantizer (activations: of one image), by which an average of bits counts it."""
        relaxation = Relaxation({})
        self._training.see(relaxation)
        return relaxation.elements

    @property
    def decided(self) -> dict[str, FakeQuant]:
        """Quantizers with more than one candidate width; the others keep their calibrated grid."""
        return {name: quantizer for name, quantizer in self.quantizers.items() if len(quantizer.widths) > 1}

    def search_schemes(
        self, candidates: Sequence[str] = CANDIDATES, bits: int = 3, granularity: str = "layer"
    ) -> SchemeSearch:
        """Search a scheme per quantizer, or one for all weights and one for all activations (QSS).

        Args:
            candidates: names of schemes; those that cannot do a tensor's sign or the width are left out for it. A
                scheme of one width competes at that width, for weights that may have it.
            bits: width of every other candidate (paper: 3, where schemes differ most).
            granularity: `layer`, or `model` for the coarse-grained search.

        Raises:
            SearchError: no candidate fits a quantizer, or the granularity is unknown.
        """
        if granularity not in {"layer", "model"}:
            raise SearchError(f"AutoQNN: granularity {granularity!r} is unknown; expected 'layer' or 'model'")
        generator = torch.Generator().manual_seed(self.protocol.seed)
        logits: dict[str, nn.Parameter] = {}
        choices: dict[str, SoftChoice] = {}
        names: dict[str, tuple[str, ...]] = {}
        for name, quantizer in self.decided.items():
            competing = {c: width for c in candidates if (width := _width_in_search(quantizer, c, bits)) is not None}
            names[name] = tuple(competing)
            if not names[name]:
                raise SearchError(f"AutoQNN: none of {list(candidates)} has {bits} bits for quantizer {name!r}")
            shared = name if granularity == "layer" else f"weight={quantizer.is_weight} {names[name]}"
            theta = logits.setdefault(shared, nn.Parameter(torch.zeros(len(names[name]))))
            grids = [_grid(quantizer, candidate) for candidate in names[name]]
            choices[name] = SoftChoice(grids, list(competing.values()), theta, generator)
        result = SchemeSearch({})

        def before(epoch: int) -> None:
            for choice in choices.values():
                choice.train()
                choice.temperature = temperature(
                    epoch, self.protocol.scheme_epochs, self.protocol.start_temperature, self.protocol.exponent
                )

        def after(loss: float) -> None:
            result.losses.append(loss)
            result.probabilities.append(
                {name: dict(zip(names[name], choice.probabilities, strict=True)) for name, choice in choices.items()}
            )

        optimizer = torch.optim.Adam(list(logits.values()), lr=self.protocol.scheme_rate)
        self._training.run(
            Relaxation(choices),
            self.protocol.scheme_epochs,
            optimizer=optimizer,
            before=before,
            after=after,
        )
        for name, choice in choices.items():
            best = int(np.argmax(choice.probabilities))
            result.schemes[name] = names[name][best]
        return result

    def learn_precision(
        self,
        schemes: Mapping[str, str],
        target: float,
        *,
        cost: ExpectedCost | None = None,
        start: float | None = None,
        widths: Sequence[int] | Mapping[str, Sequence[int]] | None = None,
    ) -> PrecisionSearch:
        """Learn bits at given schemes (QPL).

        Args:
            schemes: scheme of each quantizer; `search_schemes(...).schemes`. Missing ones keep their own.
            target: average bits over all values of weights and activations (equation 6), or the cost.
            cost: differentiable cost (cycles, energy) to meet in place of average bits.
            start: first value of all bits; by default one more than the target, for a cost the largest width.
            widths: allow only these, for all quantizers or by name; a single one trains at a fixed width.

        Raises:
            SearchError: even the smallest widths are over the target, or a scheme has no allowed width.
        """
        first = start if start is not None else (target + 1 if cost is None else 32.0)
        learned: dict[str, LearnedBits] = {}
        for name, quantizer in self.decided.items():
            scheme = schemes.get(name) or quantizer.scheme_name(max(quantizer.widths))
            given = widths.get(name) if isinstance(widths, Mapping) else widths
            allowed = set(get_scheme(scheme).widths).intersection(quantizer.widths, given or range(1, 33))
            if not allowed:
                raise SearchError(f"quantizer {name!r}: scheme {scheme!r} has none of the widths that are allowed")
            learned[name] = LearnedBits(self.grid(name, scheme), sorted(allowed), first)
        fixed = {name: _width(quantizer) for name, quantizer in self.quantizers.items() if name not in learned}

        def value(chosen: Mapping[str, int]) -> float:
            if cost is not None:
                return cost.at({**fixed, **chosen})
            counts = {name: self.elements[name] for name in chosen}
            return sum(width * counts[name] for name, width in chosen.items()) / sum(counts.values())

        def penalty(bits: Mapping[str, Tensor]) -> Tensor:
            if cost is None:
                return precision_loss(average_bits(bits, self.elements), target)
            constant = {name: torch.tensor(float(width)) for name, width in fixed.items()}
            return torch.relu(cost({**constant, **bits}) / target - 1) ** 2

        def choose(found: Mapping[str, float]) -> Mapping[str, int]:
            return round_within(found, {name: own.widths for name, own in learned.items()}, value, target)

        result = self.train_bits(learned, penalty, choose, target)
        result.average = value({name: result.policy[name] for name in learned})  # type: ignore[misc]
        return result

    def grid(self, name: str, scheme: str) -> RunningGrid:
        """Return a new grid of a scheme for a quantizer; `finish` writes back what it has become."""
        self._grids[name] = _grid(self.quantizers[name], scheme)
        return self._grids[name]

    def train_bits(
        self,
        quantizers_of: Mapping[str, LearnedBits | FollowingBits],
        penalty: Callable[[Mapping[str, Tensor]], Tensor],
        choose: Callable[[Mapping[str, float]], Mapping[str, int]],
        target: float,
    ) -> PrecisionSearch:
        """Train weights and bits together, choose legal widths, and train the weights at them (line 7 of Algorithm 2).

        Args:
            quantizers_of: a relaxed quantizer for every quantizer that is decided.
            penalty: bits of each quantizer → the loss that is added (equation 6, or of a cost).
            choose: real-valued bits of the learned ones → their legal widths.
            target: what the penalty draws to, for the record.

        Returns:
            What was found; its average is not measured.
        """
        learned = {name: own for name, own in quantizers_of.items() if isinstance(own, LearnedBits)}
        relaxation = Relaxation(quantizers_of)
        result = PrecisionSearch(Policy({}), {}, float("nan"), target, relaxation.elements)

        def clamp() -> None:
            for quantizer in learned.values():
                quantizer.clamp()

        def extra() -> Tensor:
            bits: dict[str, Tensor] = {name: quantizer.bits for name, quantizer in quantizers_of.items()}
            return self.protocol.precision_weight * penalty(bits)

        self._training.see(relaxation)
        settling = round(self.protocol.precision_epochs * self.protocol.settling)
        self._training.run(
            relaxation,
            self.protocol.precision_epochs - settling,
            optimizer=torch.optim.Adam([own.bits for own in learned.values()], lr=self.protocol.bits_rate),
            after=result.losses.append,
            extra=extra,
            clamp=clamp,
        )
        result.learned = {name: float(own.bits.detach()) for name, own in learned.items()}
        for name, width in choose(result.learned).items():
            learned[name].fix(width)
        chosen = {name: own.width for name, own in quantizers_of.items()}
        result.policy = Policy(
            {name: chosen.get(name) or _width(quantizer) for name, quantizer in self.quantizers.items()}
        )
        self._training.run(relaxation, settling, after=result.losses.append)
        return result

    def finish(self, schemes: Mapping[str, str], policy: Policy) -> Module:
        """Return a copy of the network with the schemes, bits, trained weights and fitted ranges written in.

        Args:
            schemes: scheme of each decided quantizer.
            policy: width of each quantizer.
        """
        made = self.module.clone()
        self.network.write_back(made)
        for name, quantizer in quantizers(made.graph).items():
            if name not in self._grids:
                quantizer.is_stale = False  # the ranges that its weight was trained at
                continue
            grid = self._grids[name]
            widths = tuple(width for width in quantizer.widths if width in get_scheme(schemes[name]).widths)
            quantizer.set_scheme(schemes[name])
            quantizer.signed = grid.signed
            quantizer.widths = widths
            stored = [grid.stored(width) for width in widths]
            quantizer.calibration = np.stack([pair[:, [0, -1]] for pair in stored])
            if grid.scheme.scheme.stores_levels:
                for width, levels in zip(widths, stored, strict=True):
                    quantizer.set_levels(width, levels)
            quantizer.bits = policy[name]
        return made


def autoqnn(
    module: Module,
    images: NDArray[np.float32],
    labels: NDArray[np.int64],
    *,
    target: float = 3.0,
    cost: ExpectedCost | None = None,
    candidates: Sequence[str] = CANDIDATES,
    granularity: str = "layer",
    protocol: AutoQnnProtocol | None = None,
    progress: Progress | None = None,
) -> tuple[Module, SchemeSearch, PrecisionSearch]:
    """Run Algorithm 2: search schemes, learn bits, write both back; arguments as in `AutoQnn` and its stages.

    Returns:
        The quantized network, what the scheme search found, what precision learning found.

    Raises:
        DataError, SearchError: as `AutoQnn`.
    """
    run = AutoQnn(module, images, labels, protocol or AutoQnnProtocol(), progress)
    found = run.search_schemes(candidates, granularity=granularity)
    learned = run.learn_precision(found.schemes, target, cost=cost)
    return run.finish(found.schemes, learned.policy), found, learned


def _width(quantizer: FakeQuant) -> int:
    bits = quantizer.bits
    if not isinstance(bits, int):
        raise SearchError(f"quantizer {quantizer.name!r}: has a width per channel; expected one width")
    return bits


def _width_in_search(quantizer: FakeQuant, scheme: str, bits: int) -> int | None:
    """Return the width at which a scheme competes for a quantizer; None where it cannot serve it."""
    found = get_scheme(scheme)
    if quantizer.signed not in found.signedness:
        return None
    if bits in found.widths:
        return bits
    only = found.widths[0]
    return only if len(found.widths) == 1 and quantizer.is_weight and only in quantizer.widths else None


def _grid(quantizer: FakeQuant, scheme: str) -> RunningGrid:
    if isinstance(quantizer.granularity, PerBlock):
        raise SearchError(
            f"quantizer {quantizer.name!r}: has blocks of scales; AutoQNN takes a range per channel or tensor"
        )
    momentum = 0.0 if quantizer.is_weight else 0.9
    return RunningGrid(get_torch_scheme(scheme), quantizer.signed, quantizer.granularity.axis, momentum)
