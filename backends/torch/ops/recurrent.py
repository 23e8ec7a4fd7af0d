"""Lowerings of LSTM, GRU and RNN: step by step, so that gradients flow and sequences may differ in length."""

from __future__ import annotations

from collections.abc import Callable

import torch

from qir.backends.torch.ops.base import Operands, Result, lowers, optional, tensor
from qir.errors import QirError
from qir.graph import Node

State = tuple[torch.Tensor, ...]
Function = Callable[[torch.Tensor], torch.Tensor]
Step = Callable[[torch.Tensor, State, "Cell"], State]

_FUNCTIONS: dict[str, Function] = {"sigmoid": torch.sigmoid, "tanh": torch.tanh, "relu": torch.relu}


class Cell:
    """Weights of one direction.

    Attributes:
        recurrence: R, [gates · hidden, hidden].
        input_bias, recurrent_bias: Wb and Rb, [gates · hidden].
        peepholes: P, [3 · hidden] (input, output, forget), or None.
        functions: f, g, h of ONNX's equations.
        linear_before_reset: GRU's attribute.
    """

    def __init__(self, node: Node, operands: Operands, direction: int, functions: list[Function]) -> None:
        bias, peepholes = optional(operands, 3), optional(operands, 7)
        self.weight = tensor(operands, 1)[direction]
        self.recurrence = tensor(operands, 2)[direction]
        zeros = self.weight.new_zeros(self.weight.shape[0])
        both = torch.cat([zeros, zeros]) if bias is None else bias[direction]
        self.input_bias, self.recurrent_bias = both.chunk(2)
        self.peepholes = None if peepholes is None else peepholes[direction].chunk(3)
        self.functions = functions
        self.linear_before_reset = bool(node.attribute("linear_before_reset", 0))


def _lstm_step(x: torch.Tensor, state: State, cell: Cell) -> State:
    """ONNX LSTM, gates in the order i, o, f, c."""
    hidden, memory = state
    f, g, h = cell.functions
    gates = x + hidden @ cell.recurrence.T + cell.recurrent_bias
    i, o, forget, c = gates.chunk(4, -1)
    if cell.peepholes is not None:
        i, forget = i + cell.peepholes[0] * memory, forget + cell.peepholes[2] * memory
    memory = f(forget) * memory + f(i) * g(c)
    if cell.peepholes is not None:
        o = o + cell.peepholes[1] * memory
    return f(o) * h(memory), memory


def _gru_step(x: torch.Tensor, state: State, cell: Cell) -> State:
    """ONNX GRU, gates in the order z, r, h."""
    (hidden,) = state
    f, g = cell.functions[:2]
    z_x, r_x, h_x = x.chunk(3, -1)
    size = hidden.shape[-1]
    gates = hidden @ cell.recurrence[: 2 * size].T + cell.recurrent_bias[: 2 * size]
    z, r = f(z_x + gates[..., :size]), f(r_x + gates[..., size:])
    matrix, bias = cell.recurrence[2 * size :].T, cell.recurrent_bias[2 * size :]
    inner = r * (hidden @ matrix + bias) if cell.linear_before_reset else (r * hidden) @ matrix + bias
    candidate = g(h_x + inner)
    return ((1 - z) * candidate + z * hidden,)


def _rnn_step(x: torch.Tensor, state: State, cell: Cell) -> State:
    (hidden,) = state
    return (cell.functions[0](x + hidden @ cell.recurrence.T + cell.recurrent_bias),)


def _run(
    data: torch.Tensor, lengths: torch.Tensor | None, state: State, cell: Cell, step: Step
) -> tuple[torch.Tensor, State]:
    """Return all steps of one direction: outputs [steps, batch, hidden], last state.

    A sequence that ended keeps its state.
    """
    projected = data @ cell.weight.T + cell.input_bias
    outputs = []
    for index, x in enumerate(projected):
        new = step(x, state, cell)
        if lengths is not None:
            alive = (index < lengths).unsqueeze(-1)
            state = tuple(torch.where(alive, n, s) for n, s in zip(new, state, strict=True))
            outputs.append(torch.where(alive, new[0], torch.zeros_like(new[0])))
        else:
            state = new
            outputs.append(new[0])
    return torch.stack(outputs), state


def _reversed(data: torch.Tensor, lengths: torch.Tensor | None) -> torch.Tensor:
    """Return every sequence from its own end to its start."""
    if lengths is None:
        return data.flip(0)
    steps = torch.arange(data.shape[0], device=data.device)[:, None]
    index = torch.where(steps < lengths, lengths - 1 - steps, steps)
    return data[index, torch.arange(data.shape[1], device=data.device)]


def _functions(node: Node, direction: int, default: list[str]) -> list[Function]:
    names = [name.lower() for name in node.attribute("activations", ())] or default * 2
    chosen = names[direction * len(default) : (direction + 1) * len(default)]
    if any(name not in _FUNCTIONS for name in chosen) or node.attribute("clip") is not None:
        raise QirError(f"node {node}: torch execution knows {', '.join(_FUNCTIONS)} without clip; use OrtSession")
    return [_FUNCTIONS[name] for name in chosen]


def _recurrent(node: Node, operands: Operands, step: Step, default: list[str], states: int) -> Result:
    batch_first = bool(node.attribute("layout", 0))
    data = tensor(operands).transpose(0, 1) if batch_first else tensor(operands)
    lengths = optional(operands, 4)
    way = node.attribute("direction", "forward")
    count, hidden = tensor(operands, 2).shape[0], tensor(operands, 2).shape[2]
    starts = [optional(operands, 5 + i) for i in range(states)]
    outputs, lasts = [], []
    for direction in range(count):
        cell = Cell(node, operands, direction, _functions(node, direction, default))
        backwards = way == "reverse" or direction == 1
        state = tuple(
            data.new_zeros(data.shape[1], hidden) if s is None else (s[:, direction] if batch_first else s[direction])
            for s in starts
        )
        made, last = _run(_reversed(data, lengths) if backwards else data, lengths, state, cell, step)
        outputs.append(_reversed(made, lengths) if backwards else made)
        lasts.append(last)
    whole = torch.stack(outputs, 1)
    ends = [torch.stack([last[i] for last in lasts]) for i in range(states)]
    if batch_first:
        return (whole.permute(2, 0, 1, 3), *(end.transpose(0, 1) for end in ends))
    return (whole, *ends)


@lowers("LSTM")
def _lstm(node: Node, operands: Operands) -> Result:
    return _recurrent(node, operands, _lstm_step, ["sigmoid", "tanh", "tanh"], 2)


@lowers("GRU")
def _gru(node: Node, operands: Operands) -> Result:
    return _recurrent(node, operands, _gru_step, ["sigmoid", "tanh"], 1)


@lowers("RNN")
def _rnn(node: Node, operands: Operands) -> Result:
    return _recurrent(node, operands, _rnn_step, ["tanh"], 1)
