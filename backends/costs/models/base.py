"""The base of every cost model: a target and its parameters in, cycles, bytes and energy out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar, Generic, TypeVar, cast

from qir.backends.costs.layers.cost import Cost, combined, slowest
from qir.backends.costs.layers.shape import ConvShape
from qir.backends.costs.layers.validation import Strict, validated
from qir.errors import TargetError

if TYPE_CHECKING:
    from qir.backends.costs.hardware import Hardware
    from qir.backends.costs.layers.layer_shapes import LayerProduct

P = TypeVar("P", bound=Strict)


class CostModel(ABC, Generic[P]):
    """Costs layers on one target.

    A model of a new kind of hardware derives from this class, names its `kind` and the type of its parameters, and
    implements `matrix_cost`.

    Attributes:
        target: the hardware.
        parameters: the model's own parameters, read from the target.
        notes: what the model leaves out, printed below its tables.
    """

    kind: ClassVar[str]
    parameters_type: ClassVar[type[Strict]]
    notes: ClassVar[tuple[str, ...]] = ()
    knows_cycles: ClassVar[bool] = True
    """Whether it tells cycles at all; else costs are bit operations and sizes."""
    energy_parameter: ClassVar[str] = ""
    """Parameter that holds the picojoules of the arithmetic; without it energy is unknown."""

    def __init__(self, target: Hardware) -> None:
        self.target = target
        where = f"target {target.name!r}: cost.parameters"
        self.parameters = cast("P", validated(self.parameters_type, target.cost.parameters, where))

    @property
    def core_pj(self) -> float:
        """Picojoules of the arithmetic's unit, whatever the model counts; 0 where they are unknown."""
        return float(getattr(self.parameters, self.energy_parameter, None) or 0.0)

    @property
    def knows_energy(self) -> bool:
        """Whether the target's file gives the energy of the arithmetic."""
        return getattr(self.parameters, self.energy_parameter, None) is not None

    def energies(self, moved: Mapping[str, float], core: float | None = None) -> dict[str, float]:
        """Picojoules by part; none where those of the arithmetic are unknown, so that no sum is of memories alone.

        Args:
            moved: name of a memory → bits read from it and written to it.
            core: picojoules of the arithmetic, None where there is none.
        """
        if not self.knows_energy:
            return {}
        pico = {memory.name: memory.energy_pj_per_bit for memory in self.target.memories}
        return ({} if core is None else {"core": core}) | {name: bits * pico[name] for name, bits in moved.items()}

    @abstractmethod
    def matrix_cost(self, shape: ConvShape, weight_bits: int, activation_bits: int) -> Cost:
        """Return the cost of fetching the operands of a layer and of computing it; widths are legal already."""

    def layer_cost(self, shape: ConvShape, weight_bits: int, activation_bits: int) -> Cost:
        """Return the cost of a convolution or fully connected layer.

        Raises:
            TargetError: the target has no such widths, or they are not a legal pair, or `shape` is not a `ConvShape`.
        """
        if not isinstance(shape, ConvShape):
            raise TargetError(f"layer cost: found {type(shape).__name__}; expected a ConvShape")
        self.check_widths(weight_bits, activation_bits)
        return self.matrix_cost(shape, weight_bits, activation_bits)

    def output_cost(self, elements: int, bits: int) -> Cost:  # noqa: ARG002
        """Return the cost of writing a layer's result at a width; zero where `layer_cost` holds it already.

        Args:
            elements: of the result, whole batch.
            bits: width of the result.
        """
        return Cost(cycles=0.0, compute_cycles=0.0)

    def stream_cost(self, elements: int, bits: int) -> Cost:
        """Return the cost of an element-wise, pooling or copying operation.

        Its tensors pass through the outermost memory.

        Args:
            elements: read and written, whole batch.
            bits: width of the elements.
        """
        memory = self.target.outermost_memory
        total_bits = elements * bits
        cycles = {f"{memory.name}.activations": total_bits / memory.bits_per_cycle}
        return Cost(
            cycles=sum(cycles.values()),
            compute_cycles=0.0,
            memory_cycles=cycles,
            bytes_moved={memory.name: total_bits / 8},
            energy=self.energies({memory.name: total_bits}),
            bound_by=slowest(0.0, cycles),
        )

    def check_widths(self, weight_bits: int, activation_bits: int) -> None:
        """Refuse widths that the target does not compute with.

        Raises:
            TargetError: names the width and those that are legal.
        """
        target = self.target
        for what, bits, widths in (
            ("weights", weight_bits, target.weight_widths),
            ("activations", activation_bits, target.activation_widths),
        ):
            if bits not in widths:
                raise TargetError(f"target {target.name!r} has no {bits}-bit {what}: expected one of {list(widths)}")
        rules = target.operand_rules()
        if not rules.allows(activation_bits, weight_bits):
            raise TargetError(
                f"target {target.name!r} does not multiply {activation_bits}-bit activations by "
                f"{weight_bits}-bit weights: "
                f"legal pairs (activation, weight) are {sorted(rules.legal_pairs())}"
            )

    def named_cost(
        self,
        name: str,  # noqa: ARG002
        product: LayerProduct,
        weight_bits: int,
        activation_bits: int,
    ) -> Cost:
        """Return the cost of a product of a layer of a network, all its copies.

        Models that know layers look `name` up.
        """
        return combined([self.matrix_cost(product.shape, weight_bits, activation_bits)], product.copies)

    def knows(self, name: str) -> bool:  # noqa: ARG002
        """Return whether the model can tell the cost of a layer of the network that was prepared."""
        return True

    def node_cost(self, name: str, bits: int) -> Cost | None:  # noqa: ARG002
        """Return the whole cost of a node without multiply-accumulates, for models that know nodes by name.

        Args:
            name: of the node.
            bits: width of its first operand.

        Returns:
            None where the model does not know the node: its tensors stream, or its cost is unknown.
        """
        return None

    def prepare(self, layers: Sequence[str], others: Sequence[str]) -> None:
        """Learn the nodes of the network that is costed next; refuse one that the model does not cover.

        Args:
            layers: nodes with multiply-accumulates, in order.
            others: all other nodes.

        Raises:
            TargetError: names the layer that is missing and the nearest that is there.
        """
