"""How an operand is walked through while the elements of a result are written one after another."""

from __future__ import annotations

from collections.abc import Sequence


def strides(shape: Sequence[int], result: Sequence[int]) -> list[int]:
    """Return how far a step along an axis of the result moves in an operand; 0 where it is broadcast."""
    padded = [1] * (len(result) - len(shape)) + list(shape)
    steps, step = [], 1
    for size in reversed(padded):
        steps.append(0 if size == 1 else step)
        step *= size
    return steps[::-1]


def merged(sizes: list[int], steps: list[list[int]]) -> tuple[list[int], list[list[int]]]:
    """Return axes that every operand walks through alike, joined to one."""
    axes = [(size, *line) for size, *line in zip(sizes, *steps, strict=True) if size != 1] or [(1, 0, 0)]
    joined = [axes[-1]]
    for size, *line in reversed(axes[:-1]):
        inner = joined[0]
        if all(outer == step * inner[0] for outer, step in zip(line, inner[1:], strict=True)):
            joined[0] = (size * inner[0], *inner[1:])
        else:
            joined.insert(0, (size, *line))
    return [axis[0] for axis in joined], [[axis[1 + side] for axis in joined] for side in range(len(steps))]
