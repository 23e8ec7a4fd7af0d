"""Read a guide with nothing but numpy and json, and run its network to the bit: python read_guide.py net.guide.json.

`Network(path).run(feeds)` is all that a simulator needs: the network's inputs in, the codes of every tensor out.
"""

import json
import sys
import zlib
from pathlib import Path

import numpy as np


class Network:
    """A guide and its weights file."""

    def __init__(self, path: str | Path) -> None:
        self.guide, self.folder = json.loads(Path(path).read_text()), Path(path).parent
        self.holders = {entry["name"]: entry for entry in self.guide["tensors"] + self.guide["constants"]}

    def read(self, entry: dict) -> bytes:
        """Return the bytes of an entry of the weights file."""
        data = (self.folder / entry["file"]).read_bytes()[entry["offset"] : entry["offset"] + entry["length"]]
        if zlib.crc32(data) != entry["crc32"]:
            raise SystemExit(f"{entry['file']}: the bytes from {entry['offset']} on are damaged")
        return data

    def numbers(self, entry: list | dict, shape: list | tuple = (-1,)) -> np.ndarray:
        """Return an array that stands in the guide or in the weights file."""
        found = np.asarray(entry) if isinstance(entry, list) else np.frombuffer(self.read(entry), entry["dtype"])
        return found.reshape(shape)

    def packed(self, entry: dict) -> np.ndarray:
        """Return what a packed entry holds: int64, in the shape that the guide gives."""
        bits, count = entry["bits"], int(np.prod(entry["shape"]))
        flat = np.unpackbits(np.frombuffer(self.read(entry), np.uint8), bitorder="little")[: count * bits]
        return (flat.reshape(count, bits).astype(np.int64) @ (1 << np.arange(bits))).reshape(entry["shape"])

    def grid(self, holder: dict) -> list[np.ndarray]:
        """float32 scale and int64 zero point of a tensor or constant, shaped to broadcast."""
        grid = holder.get("grid", holder)
        shape = [-1 if axis == grid["axis"] else 1 for axis in range(len(holder["shape"]))]
        both = self.numbers(grid["scale"]).astype(np.float32), self.numbers(grid["zero_point"]).astype(np.int64)
        return [array.reshape(shape if array.size > 1 else ()) for array in both]

    def integers(self, name: str, codes: dict) -> np.ndarray:
        """Codes less their zero point, of a tensor or a constant: int64."""
        entry = self.holders[name]
        if name not in codes:
            stored, table = self.packed(entry["packed"]), entry["table"]
            whole = stored * entry["code_step"] + entry["low_code"] if table is None else np.asarray(table)[stored]
        return (codes[name].astype(np.int64) if name in codes else whole) - self.grid(entry)[1]

    def run(self, feeds: dict) -> dict:
        """Every tensor by name; inputs have the shapes that the guide gives."""
        for step in self.guide["steps"]:
            if step["kind"] in ("float", "control-flow", "unknown"):
                raise SystemExit(f"step {step['name']!r}: {step['op']} does not run on integers")
        found = {port["tensor"]: np.asarray(feeds[port["name"]], port["element"]) for port in self.guide["inputs"]}
        for step in self.guide["steps"]:
            for output in step["outputs"]:
                tensor = self.holders[output["tensor"]]
                result = self.result(step, output["multiplier"], tensor, found)
                found[tensor["name"]] = np.clip(result, *output["clamp"]).astype(np.int64).reshape(tensor["shape"])
        return found

    def result(self, step: dict, multiplier: dict | None, tensor: dict, found: dict) -> np.ndarray:
        """Codes, before they are clamped, or sums."""
        first, (scale, zero), op = found.get(step["inputs"][0]), self.grid(tensor), step["op"]
        if step["gather"]:
            places = sum(np.ix_(*(self.numbers(line) for line in step["gather"]["offsets"])))
            return np.where(places < 0, step["gather"]["fill"] or 0, first.reshape(-1)[np.maximum(places, 0)])
        if step["kind"] == "quantize":
            return np.rint(first / scale) + zero
        if step["kind"] in ("move", "view") and op != "Concat":
            return np.max(taps(first, step["window"], -(2**31)), axis=0) if step["window"] else first
        names = [name for name in step["inputs"] if name]
        terms = terms_of(step, [self.integers(name, found) for name in names], tensor["shape"])
        if step["bias"] is not None:
            terms = [terms[0] + self.numbers(step["bias"], step["bias_shape"])]
        if multiplier is None:
            return terms[0] + zero
        shape, count = multiplier["shape"], self.numbers(multiplier["count"], multiplier["count_shape"])
        if self.guide["requantization"]["kind"] != "float32":
            lines = [self.numbers(line, shape).astype(object) for line in multiplier["mantissa"]]
            total = sum(term * line for term, line in zip(terms, lines, strict=True))
            power = 2 ** self.numbers(multiplier["shift"], shape).astype(object) * count
            whole, rest = total // power, 2 * (total % power)
            return whole + ((rest > power) | ((rest == power) & (whole % 2 == 1))) + zero
        grids = [self.grid(self.holders[name]) for name in names]
        if multiplier["float32"] is None:
            values = [
                self.integers(x, found).astype(np.float32) * own for x, (own, _) in zip(names, grids, strict=True)
            ]
            if step["window"]:
                mean = np.add.reduce(taps(values[0], step["window"], 0), dtype=np.float32) / count.astype(np.float32)
                return np.rint(mean / scale + np.float32(zero))
            joined = values[0] if len(values) == 1 else np.concatenate(values, step["attributes"]["axis"])
            return np.rint(joined / scale) + zero
        lines = [self.numbers(line, shape).astype(np.float32) for line in multiplier["float32"]]
        if op != "Add":
            scaled = terms[0].astype(np.float32) * lines[0]
            return np.rint(scaled + np.float32(zero)) if op == "Mul" else np.rint(scaled) + zero
        (a, b), (_, zero_a), (_, zero_b) = (line.astype(np.float64) for line in lines), *grids
        fixed = np.float32(zero) - np.float32(zero_a * a + lines[1] * np.float32(zero_b))
        return np.rint(np.float32((terms[0] + zero_a) * a + np.float32((terms[1] + zero_b) * b + fixed)))


def taps(data: np.ndarray, window: dict, fill: float | None = None) -> list[np.ndarray]:
    """One view [N, C, out...] for each element of the kernel, in C order, of data padded with `fill`."""
    if fill is not None:
        pads = zip(window["begin"], window["end"], strict=True)
        data = np.pad(data, [(0, 0), (0, 0), *pads], constant_values=fill)
    parts = list(zip(data.shape[2:], window["kernel"], window["strides"], window["dilations"], strict=True))
    return [
        data[(..., *(slice(i * d, n - (k - 1 - i) * d, s) for i, (n, k, s, d) in zip(place, parts, strict=True)))]
        for place in np.ndindex(*window["kernel"])
    ]


def terms_of(step: dict, operands: list, shape: list) -> list:
    """Return the exact integers of a step, one array for each line of its multiplier."""
    op, window, first, groups = step["op"], step["window"], operands[0], step["attributes"].get("group", 1)
    if op == "Conv":
        columns = np.stack(taps(first, window, 0), axis=2).reshape(len(first), groups, -1, int(np.prod(shape[2:])))
        kernels = operands[1].reshape(groups, shape[1] // groups, -1).astype(np.float64)
        return [(kernels @ columns.astype(np.float64)).astype(np.int64).reshape(shape)]
    if op == "ConvTranspose":
        sizes = [n + b + e for n, b, e in zip(shape[2:], window["begin"], window["end"], strict=True)]
        total, image = np.zeros((*shape[:2], *sizes), np.int64), first.reshape(len(first), groups, -1, *first.shape[2:])
        kernels = operands[1].reshape(groups, -1, shape[1] // groups, int(np.prod(window["kernel"])))
        for index, view in enumerate(taps(total, window)):
            part = np.einsum("ngi...,gio->ngo...", image, kernels[..., index]).reshape(*shape[:2], *first.shape[2:])
            view[tuple(map(slice, part.shape))] += part
        return [total[(..., *(slice(b, b + n) for b, n in zip(window["begin"], shape[2:], strict=True)))]]
    if op in ("Gemm", "MatMul"):
        turned = [x.T if step["attributes"].get(f"trans{k}", 0) else x for x, k in zip(operands, "AB", strict=True)]
        return [(turned[0].astype(np.float64) @ turned[1].astype(np.float64)).astype(np.int64)]
    if window:
        return [np.sum(taps(first, window, 0), axis=0)]
    joined = [np.concatenate(operands, step["attributes"]["axis"])] if op == "Concat" else operands
    return [operands[0] * operands[1]] if op == "Mul" else joined


if __name__ == "__main__":
    network, random = Network(sys.argv[1]), np.random.default_rng(0)
    result = network.run({port["name"]: random.normal(size=port["shape"]) for port in network.guide["inputs"]})
    for port in network.guide["outputs"]:
        print(f"{port['name']}: codes {result[port['tensor']].reshape(-1)[:10].tolist()} of shape {port['shape']}")
