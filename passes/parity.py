"""Parity of an exported network: what every executor computes, held against the integer reference."""

from __future__ import annotations

from qir.graph import Value
from qir.module import Module


def code_values(module: Module) -> tuple[Value, ...]:
    """The value that holds the codes of each QuantizeLinear: its result, or the result of the Clip behind it."""
    found = []
    for node in module.graph:
        if node.op == "QuantizeLinear":
            users = node.result.users
            found.append(users[0].result if len(users) == 1 and users[0].op == "Clip" else node.result)
    return tuple(found)


def expose_codes(module: Module) -> Module:
    """A copy of an exported network whose codes are outputs too, under their own names; kernels fuse as before."""
    copy = module.clone()
    graph = copy.graph
    extra = [value for value in code_values(copy) if not value.is_output]
    graph.set_outputs([*graph.outputs, *extra], [*graph.output_names, *(value.name for value in extra)])
    return copy
