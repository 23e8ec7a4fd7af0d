"""Read a guide with nothing but numpy and json, and recompute its layers to the bit.

    python examples/read_guide.py model.guide.json

checks the packed weights and runs every layer on random codes. `recompute(layer, folder, codes)` is all that a
simulator of an accelerator needs: input codes and packed weights in, output codes out.
"""

import json
import sys
import zlib
from pathlib import Path

import numpy as np

KNOWN = (("Conv", 4), ("Gemm", 2), ("MatMul", 2))


def weights_of(layer: dict, folder: str | Path) -> np.ndarray:
    """Integer codes of a layer's weight: int32, the shape that the guide gives."""
    entry, grid = layer["packed_weight"], layer["weight"]
    data = (Path(folder) / entry["file"]).read_bytes()[entry["offset"] : entry["offset"] + entry["length"]]
    if zlib.crc32(data) != entry["crc32"]:
        raise SystemExit(f"{layer['name']}: the packed weights are damaged")
    count = int(np.prod(entry["shape"]))
    flat = np.unpackbits(np.frombuffer(data, np.uint8), bitorder="little")[: count * entry["bits"]]
    codes = flat.reshape(count, entry["bits"]).astype(np.int32) @ (1 << np.arange(entry["bits"], dtype=np.int32))
    if grid["table"] is not None:
        return np.asarray(grid["table"], np.int32)[codes].reshape(entry["shape"])
    return (codes * grid["code_step"] + grid["low_code"]).reshape(entry["shape"])


def convolve(data: np.ndarray, weight: np.ndarray, attributes: dict) -> np.ndarray:
    """Exact integer sums of a 2-D convolution: data [N, C, H, W], weight [O, C/groups, KH, KW]."""
    groups = attributes.get("group", 1)
    top, left, bottom, right = attributes.get("pads", [0, 0, 0, 0])
    (sy, sx), (dy, dx) = attributes.get("strides", [1, 1]), attributes.get("dilations", [1, 1])
    data = np.pad(data, ((0, 0), (0, 0), (top, bottom), (left, right)))
    outputs, _, rows, columns = weight.shape
    height = (data.shape[2] - dy * (rows - 1) - 1) // sy + 1
    width = (data.shape[3] - dx * (columns - 1) - 1) // sx + 1
    total = np.zeros((len(data), groups, outputs // groups, height, width), np.int64)
    images = data.reshape(len(data), groups, -1, *data.shape[2:])
    kernels = weight.reshape(groups, outputs // groups, -1, rows, columns)
    for y in range(rows):
        for x in range(columns):
            part = images[..., y * dy :: sy, x * dx :: sx][..., :height, :width]
            total += np.einsum("ngihw,goi->ngohw", part, kernels[..., y, x])
    return total.reshape(len(data), outputs, height, width)


def recompute(layer: dict, folder: str | Path, codes: np.ndarray, kind: str = "float32") -> np.ndarray:
    """Output codes of a layer, with float32 multipliers or on integers alone; both round half to even."""
    data = codes.astype(np.int64) - layer["input"]["zero_point"][0]
    weight = weights_of(layer, folder).astype(np.int64)
    attributes, shape = layer["attributes"], (-1,)
    if layer["op"] == "Conv":
        total, shape = convolve(data, weight, attributes), (-1, 1, 1)
    else:
        total = data @ (weight.T if attributes.get("transB", 0) else weight)
    if layer["bias_codes"] is not None:
        total = total + np.asarray(layer["bias_codes"], np.int64).reshape(shape)
    multiplier = layer["multiplier"]
    if kind == "float32":
        result = np.rint(total.astype(np.float32) * np.asarray(multiplier["float32"][0], np.float32).reshape(shape))
    else:
        power = np.int64(1) << np.asarray(multiplier["shift"], np.int64).reshape(shape)
        result, rest = np.divmod(total * np.asarray(multiplier["mantissa"][0], np.int64).reshape(shape), power)
        result = result + ((rest > power - rest) | ((rest == power - rest) & (result % 2 == 1)))
    return np.clip(result + layer["output"]["zero_point"][0], *layer["clamp"]).astype(np.int32)


def main(path: str) -> None:
    """Print every layer and recompute it on random codes."""
    guide, folder = json.loads(Path(path).read_text()), Path(path).parent
    kind = guide["requantization"]["kind"]
    for layer in guide["layers"]:
        shape = (layer["packed_weight"] or {"shape": []})["shape"]
        if layer["multiplier"] is None or (layer["op"], len(shape)) not in KNOWN:
            print(f"{layer['name']}: {layer['op']}: not recomputed")
            continue
        weight, grid = weights_of(layer, folder), layer["input"]
        channels = weight.shape[1] * layer["attributes"].get("group", 1)
        rows = weight.shape[1 if layer["attributes"].get("transB", 0) else 0]
        shape = (1, channels, 16, 16) if layer["op"] == "Conv" else (1, rows)
        codes = np.random.default_rng(0).integers(grid["low_code"], grid["high_code"] + 1, shape)
        result, (data, bits) = recompute(layer, folder, codes, kind), layer["operand_pair"]
        print(f"{layer['name']}: {layer['op']} {data} x {bits} bits, codes {result.min()} to {result.max()}")


if __name__ == "__main__":
    main(sys.argv[1])
