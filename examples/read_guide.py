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

KNOWN = ("Conv", "Gemm", "MatMul")


def unpacked(entry: dict, folder: str | Path) -> np.ndarray:
    """What a packed entry of the weights file holds: int64, the shape that the guide gives."""
    data = (Path(folder) / entry["file"]).read_bytes()[entry["offset"] : entry["offset"] + entry["length"]]
    if zlib.crc32(data) != entry["crc32"]:
        raise SystemExit(f"{entry['file']}: the bytes from {entry['offset']} on are damaged")
    bits, count = entry["bits"], int(np.prod(entry["shape"]))
    flat = np.unpackbits(np.frombuffer(data, np.uint8), bitorder="little")[: count * bits].reshape(count, bits)
    return (flat.astype(np.int64) @ (1 << np.arange(bits))).reshape(entry["shape"])


def weights_of(layer: dict, folder: str | Path) -> np.ndarray:
    """Integers of a layer's weight, codes less their zero point: int64, the weight's shape."""
    codes, grid = unpacked(layer["packed_weight"], folder), layer["weight"]
    codes = codes * grid["code_step"] + grid["low_code"] if grid["table"] is None else np.asarray(grid["table"])[codes]
    zero, shape = np.asarray(grid["zero_point"]), [1] * codes.ndim
    shape[grid["axis"] or 0] = zero.size
    return codes - zero.reshape(shape)


def convolve(data: np.ndarray, weight: np.ndarray, attributes: dict) -> np.ndarray:
    """Exact integer sums of a convolution: data [N, C, spatial...], weight [O, C/groups, kernel...]."""
    outputs, _, *kernel = weight.shape
    groups, rank, taps = attributes.get("group", 1), len(kernel), int(np.prod(kernel))
    pads, ones = attributes.get("pads", [0] * 2 * rank), [1] * rank
    strides, dilations = attributes.get("strides", ones), attributes.get("dilations", ones)
    data = np.pad(data, [(0, 0), (0, 0), *zip(pads[:rank], pads[rank:], strict=True)])
    reach = [(size - 1) * step + 1 for size, step in zip(kernel, dilations, strict=True)]
    views = np.lib.stride_tricks.sliding_window_view(data, reach, tuple(range(2, 2 + rank)))
    views = views[(slice(None), slice(None), *(slice(None, None, step) for step in [*strides, *dilations]))]
    images = views.reshape(len(data), groups, data.shape[1] // groups, -1, taps)
    total = np.einsum("ngipk,goik->ngop", images, weight.reshape(groups, outputs // groups, -1, taps))
    return total.reshape(len(data), outputs, *views.shape[2 : 2 + rank])


def recompute(layer: dict, folder: str | Path, codes: np.ndarray, kind: str = "float32") -> np.ndarray:
    """Output codes of a layer: with float32 multipliers, on integers alone (both half to even), or by thresholds."""
    data = codes.astype(np.int64) - layer["input"]["zero_point"][0]
    weight = weights_of(layer, folder)
    attributes, shape = layer["attributes"], (-1,)
    if layer["op"] == "Conv":
        total, shape = convolve(data, weight, attributes), (-1, *[1] * (weight.ndim - 2))
    else:
        total = data @ (weight.T if attributes.get("transB", 0) else weight)
    if layer["bias_codes"] is not None:
        total = total + np.asarray(layer["bias_codes"], np.int64).reshape(shape)
    multiplier, compared = layer["multiplier"], layer["thresholds"]
    if kind == "thresholds":
        rows = unpacked(compared["packed"], folder) + compared["low_sum"]
        edges = rows.reshape(len(rows), *(1,) * (total.ndim - 2), -1)
        return (total[..., None] >= edges).sum(axis=-1).astype(np.int32) + compared["low_code"]
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
    for layer in guide["layers"]:
        padded = layer["attributes"].get("auto_pad", "NOTSET") != "NOTSET"
        if not layer["multiplier"] or not layer["packed_weight"] or layer["op"] not in KNOWN or padded:
            print(f"{layer['name']}: {layer['op']}: not recomputed")
            continue
        weight, grid = weights_of(layer, folder), layer["input"]
        rows_first = layer["op"] != "Conv" and not layer["attributes"].get("transB", 0)
        channels = weight.shape[0] if rows_first else weight.shape[1] * layer["attributes"].get("group", 1)
        shape = (1, channels, *[16] * (weight.ndim - 2)) if layer["op"] == "Conv" else (1, channels)
        codes = np.random.default_rng(0).integers(grid["low_code"], grid["high_code"] + 1, shape)
        result = recompute(layer, folder, codes, guide["requantization"]["kind"])
        if layer["thresholds"] and not np.array_equal(result, recompute(layer, folder, codes, "thresholds")):
            raise SystemExit(f"{layer['name']}: its thresholds give other codes than its multipliers")
        pair = " x ".join(map(str, layer["operand_pair"]))
        print(f"{layer['name']}: {layer['op']} {pair} bits, codes {result.min()} to {result.max()}")


if __name__ == "__main__":
    main(sys.argv[1])
