"""The guide: what an accelerator's tools need to know about a quantized network, as one JSON file.

Readable with nothing but a JSON parser; `guide_schema()` is the JSON Schema. Integer weights lie packed in a binary
file next to it, whose entries name offset, length, bits and CRC-32.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from qir.errors import QirError
from qir.guide_network import (
    ConstantGuide,
    CostGuide,
    Integers,
    NetworkTensor,
    PackedTensor,
    PortGuide,
    Reals,
    StepGuide,
)
from qir.support.record import Record


class TensorGuide(Record):
    """One quantized tensor.

    value = (code - zero_point) * scale, codes in [low_code, high_code] in steps of `code_step`; `threshold` is the
    calibrated range (low, high) per channel, in the unit of the values: what lies outside is clipped. Where `table` is
    given, codes are `table[index]` of stored indices; where `levels` is given, there are no integers:
    value = levels[channel][index].
    """

    name: str
    quantizer: str
    bits: int = Field(ge=1, le=32, description="width in storage; the widest where channels differ")
    channel_bits: list[int] | None = Field(default=None, description="width of every channel, 0 = pruned")
    signed: bool
    scheme: str
    axis: int | None
    block: int | None = Field(
        default=None, description="elements along `axis` that share a scale; scales in C order of the tensor of blocks"
    )
    scale: Reals
    zero_point: Integers
    low_code: int
    high_code: int
    code_step: int = 1
    threshold: Reals = Field(description="low and high of every channel, one after the other")
    table: list[int] | None = None
    levels: list[list[float]] | None = None


class ThresholdsGuide(Record):
    """From sums to codes by comparisons alone: code = low_code + number of the channel's thresholds <= the sum.

    The sums have the bias inside, the codes the activation: no multiplier is needed. Rows of `packed` are channels (one
    row serves all where they are equal), ascending along the row, stored as `threshold - low_sum`.
    """

    packed: PackedTensor
    low_sum: int = Field(description="smallest threshold that can be stored; the smallest sum stands for always")
    low_code: int


class LayerGuide(Record):
    """One quantized layer, in execution order; how it is computed stands in the step of the same node."""

    name: str
    node: str
    op: str
    operand_pair: tuple[int, int] = Field(description="activation bits, weight bits")
    input: TensorGuide
    weight: TensorGuide
    output: TensorGuide | None
    packed_weight: PackedTensor | None
    accumulator: tuple[int, int] | None = Field(
        description="smallest and largest sum, bias included, that any input can produce: proven, not observed"
    )
    accumulator_bits: int | None = Field(description="two's complement bits that hold every such sum")
    thresholds: ThresholdsGuide | None = Field(
        default=None, description="of the requantization, where it is uniform and the output has up to 4 bits"
    )
    cost: CostGuide | None = Field(description="null when the target does not cost it")
    execution: Literal["native", "emulated"]
    emulation: str = Field(default="", description="what the export profile could not express and how it is computed")


class StoredWeightGuide(Record):
    """A weight that is stored as codes for a kernel that computes in float: recurrent layers, embeddings, blocks."""

    name: str
    node: str
    op: str
    operand: int = Field(description="index of the operand that the weight is")
    weight: TensorGuide
    packed_weight: PackedTensor | None
    reason: str


class BufferGuide(Record):
    """An activation in memory, from step `first` that writes it to step `last` that reads it."""

    name: str
    quantizer: str = Field(description="whose codes are stored; empty = float32")
    bits: int
    elements: int
    bytes: int
    offset: int
    first: int
    last: int


class MemoryGuide(Record):
    """Where activations lie, for one sample (an unknown first dimension is 1).

    Tensors alive at the same time do not overlap; `lower_bound` is the most bytes alive at one step, which no plan
    beats.
    """

    tensors: list[BufferGuide]
    peak: int
    lower_bound: int
    order: str


class RequantizationGuide(Record):
    """How the target turns sums into codes."""

    kind: Literal["float32", "dyadic", "power-of-two"]
    rounding: str


class CpuGuide(Record):
    """On which CPUs ONNX Runtime computes the codes of the model file exactly.

    x86 CPUs without VNNI add products of unsigned by signed bytes in pairs and clip each pair's sum to int16.
    """

    exact_on: Literal["all", "vnni-or-arm"]
    saturating_layers: list[str] = Field(description="layers in which x86 CPUs without VNNI can clip a sum")
    session: dict[str, str] = Field(
        description="session options of ONNX Runtime with which those CPUs are exact too; empty where there are none"
    )


class Provenance(Record):
    """Where the network came from."""

    qir_version: str
    float_model_sha256: str
    target: str
    target_sha256: str
    policy: dict[str, int | list[int]]
    policy_sha256: str
    data: dict[str, str] = Field(description="what each data split was used for")


class ProofGuide(Record):
    """What the model file was held against before it was handed over.

    Each tensor of codes is compared with what the reference computes from the codes that the engine itself gave the
    layer. A tie is a difference by one rounding of a float operator whose value lies within float error of a half step.
    """

    reference: Literal["integer reference", "products", "simulation"] = Field(
        description="products: every product with a weight in blocks, computed again from the operands that it had"
    )
    engine: str = Field(
        description="onnxruntime with its setting (default, fused, unfused), or qir's executor of QONNX files"
    )
    engine_version: str
    cpu: str = Field(description="instruction set of the CPU that ran the engine")
    samples: int
    codes: int = Field(description="of every tensor of codes; results of all products; else of the outputs")
    mismatches: int = Field(description="codes that differ by more than a tie")
    ties: int
    clipped: int | None = Field(
        description="codes that differ where x86 CPUs without VNNI clip pairs of products; null without such products"
    )
    allowed: list[str] = Field(description="what breaks the promise and was allowed all the same")


class SourceGuide(Record):
    """C source that was written with the guide, and what it was held against before it was handed over."""

    files: list[str] = Field(description="names of header, source and self-test")
    function: str
    compiler: str = Field(description="that compiled it; empty where the machine has none, and nothing was compared")
    samples: int
    codes: int = Field(description="output codes that were compared with the integer reference, none of which differs")
    arena_bytes: int = Field(description="static memory for activations")
    scratch_bytes: int = Field(description="static memory for rows and columns of products")


class Guide(Record):
    """The whole file."""

    guide_version: Literal[4] = 4
    provenance: Provenance
    inputs: list[PortGuide]
    outputs: list[PortGuide]
    requantization: RequantizationGuide
    cpus: CpuGuide | None = Field(default=None, description="null for files that hold no codes")
    proof: ProofGuide | None = Field(default=None, description="null in guides without a model file")
    source: SourceGuide | None = Field(default=None, description="of the profile c99")
    layers: list[LayerGuide]
    stored_weights: list[StoredWeightGuide] = Field(default=[], description="weights of kernels that compute in float")
    tensors: list[NetworkTensor] = Field(description="everything that steps read and write, but constants")
    constants: list[ConstantGuide] = Field(description="integer weights that steps read")
    steps: list[StepGuide] = Field(description="the network in execution order")
    network_unknown: str = Field(
        default="", description="why the steps are of kind `unknown`, and what makes them known"
    )
    memory: MemoryGuide | None = Field(description="null when the size of a tensor is unknown")
    memory_unknown: str = Field(default="", description="why `memory` is null: the tensors, and what makes them known")
    total_cycles: float | None = Field(description="null without target or when the cost of a node is unknown")
    total_energy_pj: float | None
    latency_seconds: float | None = Field(description="null when the target has no clock")
    unknown_costs: list[str] = Field(description="nodes that the target does not cost")
    unknown_reasons: dict[str, str] = Field(default={}, description="node of `unknown_costs` → why it is not costed")
    cost_shapes: dict[str, list[int]] = Field(
        default={}, description="input whose sizes the network leaves open → the sizes that costs are given for"
    )
    weights_file: str
    weights_sha256: str

    def to_json(self) -> str:
        """Deterministic JSON text."""
        return json.dumps(self.model_dump(mode="json"), indent=1, sort_keys=True) + "\n"


def read_guide(path: str | Path) -> Guide:
    """Read and check a guide, with the weights and the model of the same export where these lie next to it.

    Raises:
        QirError: the file is missing, no JSON, or breaks the schema (the message names the entry); or the weights or
            the model next to it are those of another export.
    """
    path = Path(path)
    try:
        content = path.read_bytes()
        guide = Guide.model_validate_json(content.decode())
    except (OSError, UnicodeDecodeError) as error:
        raise QirError(f"{path}: the guide cannot be read: {error}") from error
    except (ValidationError, RecursionError) as error:
        reason = "it nests too deeply"
        if isinstance(error, ValidationError):
            first = error.errors()[0]
            reason = f"guide entry {'.'.join(str(part) for part in first['loc'])!r}: {first['msg']}"
        raise QirError(f"{path}: {reason}") from error
    _check_weights(path, guide)
    _check_model(path, hashlib.sha256(content).hexdigest())
    return guide


def _check_weights(path: Path, guide: Guide) -> None:
    weights = path.with_name(Path(guide.weights_file).name)
    try:
        with weights.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        return
    except OSError as error:
        raise QirError(f"{weights}: the weights of {path.name} cannot be read: {error}") from error
    if found != guide.weights_sha256:
        raise QirError(f"{weights}: these are not the weights of {path.name}, or they are damaged: export again")


def _check_model(path: Path, digest: str) -> None:
    from qir.onnx_io.files import read_model_metadata

    stem = path.name.removesuffix(".guide.json")
    for model in (path.with_name(f"{stem}.quant.onnx"), path.with_name(f"{stem}.onnx")):
        expected = read_model_metadata(model).get("qir.guide.sha256") if model.is_file() else None
        if expected is not None and expected != digest:
            raise QirError(f"{path}: this is not the guide of {model.name}, or it was changed: export again")


def guide_schema() -> dict[str, Any]:
    """Return the JSON Schema of the guide."""
    return Guide.model_json_schema()


def main() -> None:
    """Print the JSON Schema: `python -m qir.guide > qir/guide.schema.json`."""
    print(json.dumps(guide_schema(), indent=1, sort_keys=True))


if __name__ == "__main__":
    main()
