"""The guide: what an accelerator's tools need to know about a quantized network, as one JSON file.

Readable with nothing but a JSON parser; `guide_schema()` is the JSON Schema. Integer weights lie packed in a binary
file beside it, whose entries name offset, length, bits and CRC-32.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from qir.errors import QirError

GUIDE_VERSION = 1


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class TensorGuide(_Strict):
    """One quantized tensor.

    value = (code - zero_point) * scale, codes in [low_code, high_code] in steps of `code_step`; `threshold` is the
    calibrated range (low, high) per channel, in the unit of the values.
    """

    name: str
    quantizer: str
    bits: int = Field(ge=1, le=32)
    signed: bool
    scheme: str
    axis: int | None
    scale: list[float]
    zero_point: list[int]
    low_code: int
    high_code: int
    code_step: int = 1
    threshold: list[tuple[float, float]]


class PackedTensor(_Strict):
    """Where integer codes lie in the weights file.

    Codes are stored as `code - low_code` (divided by the code step), `bits` bits each, first element in the lowest bits
    of the first byte, without padding between elements; the last byte is filled with zeros. Elements are in C order.
    """

    file: str
    offset: int
    length: int
    bits: int
    shape: list[int]
    order: Literal["C"] = "C"
    crc32: int


class LayerGuide(_Strict):
    """One quantized layer, in execution order."""

    name: str
    node: str
    op: str
    attributes: dict[str, Any]
    input: TensorGuide
    weight: TensorGuide
    output: TensorGuide | None
    packed_weight: PackedTensor | None
    bias_codes: list[int] | None
    multiplier: list[float] | None = Field(
        description="float32 s_x*s_w/s_y per output channel; None without an output grid"
    )
    clamp: tuple[int, int] | None = Field(
        description="lowest and highest output code, the fused activation (Relu, Clip) included"
    )
    accumulator: tuple[int, int] | None = Field(
        description="smallest and largest sum, bias included, that any input can produce: proven, not observed"
    )
    accumulator_bits: int | None = Field(description="two's complement bits that hold every such sum")
    cycles: float | None = Field(description="latency on the target, cycles; None when the target does not cost it")
    bound_by: str | None
    execution: Literal["native", "emulated"]
    emulation: str = Field(default="", description="what the export profile could not express and how it is computed")


class Provenance(_Strict):
    """Where the network came from."""

    qir_version: str
    float_model_sha256: str
    target: str
    target_sha256: str
    policy: dict[str, int]
    policy_sha256: str
    data: dict[str, str] = Field(description="what each data split was used for")


class Guide(_Strict):
    """The whole file."""

    guide_version: Literal[1] = 1
    provenance: Provenance
    inputs: list[str]
    outputs: list[str]
    layers: list[LayerGuide]
    total_cycles: float | None
    weights_file: str
    weights_sha256: str

    def to_json(self) -> str:
        """Deterministic JSON text."""
        return json.dumps(self.model_dump(mode="json"), indent=1, sort_keys=True) + "\n"


def read_guide(path: str | Path) -> Guide:
    """Read and check a guide.

    Raises:
        QirError: the file is missing, no JSON, or breaks the schema; the message names the entry.
    """
    try:
        return Guide.model_validate_json(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise QirError(f"{path}: the guide cannot be read: {error}") from error
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise QirError(f"{path}: guide entry {place!r}: {first['msg']}") from error


def guide_schema() -> dict[str, Any]:
    """The JSON Schema of the guide."""
    return Guide.model_json_schema()


def main() -> None:
    """Print the JSON Schema: `python -m qir.guide > docs/guide.schema.json`."""
    print(json.dumps(guide_schema(), indent=1, sort_keys=True))


if __name__ == "__main__":
    main()
