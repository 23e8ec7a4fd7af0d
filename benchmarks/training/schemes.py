"""Which scheme loses least on which distribution: figure 2 of AutoQNN (Gong et al., 2024), and its offline constants.

    python benchmarks schemes [--samples 200000] [--markdown]

Loss is the mean squared difference between values and quantized values, divided by the variance of the values. The
paper plots the distance without saying how it is scaled; orders are comparable, heights are not.
"""

from __future__ import annotations

import argparse

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar

from qir.passes.calibration.clipping import threshold
from qir.passes.calibration.observers import Histogram
from qir.quantizers import get_scheme, scheme_names

PAPER = ("ternary", "quaternary", "fixedq", "zoomq", "clipq", "potq", "resq")
"""The candidates of figure 2, in its order: T, Q, F, Z, C, P, R."""

BEST_IN_PAPER = {
    "normal": {"ternary", "quaternary", "zoomq", "clipq"},
    "uniform": {"fixedq", "zoomq", "resq"},
    "logistic": {"clipq"},
    "exponential": {"clipq"},
    "log-normal": {"potq"},
}
"""Column "Distribution" of the paper's table 1: which schemes it says a distribution wants."""


def distributions(samples: int, seed: int) -> dict[str, NDArray[np.float32]]:
    """Draw the five distributions of figure 2; the one-sided ones with random signs, since weights have two sides."""
    rng = np.random.default_rng(seed)
    sign = rng.choice(np.array([-1.0, 1.0]), samples)
    drawn = {
        "normal": rng.normal(size=samples),
        "uniform": rng.uniform(-1, 1, size=samples),
        "logistic": rng.logistic(size=samples),
        "exponential": sign * rng.exponential(size=samples),
        "log-normal": sign * rng.lognormal(size=samples),
    }
    return {name: x.astype(np.float32) for name, x in drawn.items()}


def loss(scheme_name: str, x: NDArray[np.float32], bits: int) -> float:
    """Relative squared error of a scheme fitted to data; NaN where the scheme has no such width."""
    scheme = get_scheme(scheme_name)
    if bits not in scheme.widths or True not in scheme.signedness:
        return float("nan")
    error = scheme.fake_quantize(x, scheme.fit_parameters(x, bits, signed=True)) - x
    return float(np.mean(np.square(error, dtype=np.float64)) / np.var(x, dtype=np.float64))


def print_losses(data: dict[str, NDArray[np.float32]], markdown: bool) -> None:
    """Print one table per width: schemes down, distributions across, the least loss of the paper's seven marked *."""
    separator = " | " if markdown else "  "
    for bits in (2, 3, 4):
        print(f"\n{bits} bits: squared error / variance (* least of the paper's schemes, + least of all)")
        print(separator.join(["scheme".ljust(22), *(name.rjust(12) for name in data)]))
        if markdown:
            print(separator.join(["---"] * (len(data) + 1)))
        table = {name: [loss(name, x, bits) for x in data.values()] for name in scheme_names()}
        table = {name: row for name, row in table.items() if not np.isnan(row).all()}
        among = {name: row for name, row in table.items() if name in PAPER}
        least = np.nanmin(list(among.values()), axis=0)
        least_of_all = np.nanmin(list(table.values()), axis=0)
        for name in (*among, *(name for name in table if name not in among)):
            marks = [
                ("*" if name in among and value == a else "") + ("+" if value == b else "")
                for value, a, b in zip(table[name], least, least_of_all, strict=True)
            ]
            cells = [f"{value:.5f}{mark:2}".rjust(12) for value, mark in zip(table[name], marks, strict=True)]
            print(separator.join([name.ljust(22), *cells]))


def print_claims(data: dict[str, NDArray[np.float32]]) -> None:
    """Print, per distribution and width, whether the best scheme is among those the paper's table 1 names."""
    print("\nTable 1 of the paper, column 'Distribution': is the measured best scheme among those it names?")
    for name, x in data.items():
        for bits in (2, 3, 4):
            losses = {scheme: loss(scheme, x, bits) for scheme in PAPER}
            best = min((scheme for scheme in PAPER if not np.isnan(losses[scheme])), key=losses.__getitem__)
            verdict = "yes" if best in BEST_IN_PAPER[name] else "no"
            print(
                f"  {name:12} {bits} bits: best {best:10} named {', '.join(sorted(BEST_IN_PAPER[name])):40} {verdict}"
            )


def normal_quantiles(count: int) -> NDArray[np.float32]:
    """A deterministic sample of the standard normal: quantiles at the middles of equal shares."""
    from scipy.stats import norm

    quantiles: NDArray[np.float32] = norm.ppf((np.arange(count) + 0.5) / count).astype(np.float32)
    return quantiles


def print_signs(samples: int, seed: int) -> None:
    """Print what unsigned and signed codes lose on calibrated activations that reach below zero."""
    x = np.random.default_rng(seed).normal(size=samples).astype(np.float32)
    activations = {"normal": x, "hard-swish": x * np.clip(2 * x + 3, 0, 6) / 3}
    print("\nActivations below zero: squared error / variance of unsigned and signed codes, calibrated ranges (mse)")
    for kind, values in activations.items():
        histogram = Histogram()
        histogram.update(values)
        for name in ("uniform", "clipq", "potq", "fixedq", "pact", "lsq", "power-of-two", "additive-power-of-two"):
            cells = []
            for bits in (2, 3, 4):
                for signed in (False, True):
                    ranges = np.array([threshold(histogram, "mse", bits, signed=signed)])
                    error = get_scheme(name).fake_quantize(values, get_scheme(name).parameters(ranges, bits, signed))
                    cells.append(float(np.mean(np.square(error - values, dtype=np.float64)) / np.var(values)))
            pairs = "   ".join(f"{bits} bits {cells[2 * bits - 4]:.3f} {cells[2 * bits - 3]:.3f}" for bits in (2, 3, 4))
            print(f"  {kind:10} {name:22} {pairs}")


def print_constants() -> None:
    """Print the printed steps of ClipQ and PotQ next to the steps of least error of their own grid."""
    x = normal_quantiles(400_000)
    print("\nOffline steps on a standard normal: printed in the paper, shipped here, found by minimization now")
    for name in ("clipq", "potq"):
        scheme, paper = get_scheme(name), get_scheme(f"{name}-paper")
        for bits in paper.widths:
            last = 2.0 ** (bits - 1) if name == "clipq" else 2.0 ** (2 ** (bits - 1) - 1)

            def error(step: float, bits: int = bits, last: float = last, name: str = name) -> float:
                grid = get_scheme(name).parameters(np.array([[-step * last, step * last]]), bits, signed=True)
                return float(np.mean(np.square(get_scheme(name).fake_quantize(x, grid) - x, dtype=np.float64)))

            printed, shipped = paper.steps[bits], scheme.steps[bits]
            found = minimize_scalar(
                error, bounds=(shipped / 1.4, shipped * 1.4), method="bounded", options={"xatol": 1e-5}
            ).x
            print(
                f"  {name:6} {bits} bits: paper {printed:.4f} (error {error(printed):.5f})  "
                f"here {shipped:.4f} ({error(shipped):.5f})  found {found:.4f} ({error(found):.5f})  "
                f"paper / least {error(printed) / error(found):.3f}"
            )


def main() -> None:
    """Print all tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=200_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--markdown", action="store_true")
    options = parser.parse_args()
    data = distributions(options.samples, options.seed)
    print_losses(data, options.markdown)
    print_claims(data)
    print_signs(options.samples, options.seed)
    print_constants()


if __name__ == "__main__":
    main()
