"""Absolute paths of source files, which exporters leave in metadata and doc strings, are kept out of what is written.

`torch.onnx.export` writes a stack trace next to every node (`pkg.torch.onnx.stack_trace`): whoever reads the file would
learn the folders of the machine that made it, and two machines would write different files.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from qir.graph import Graph, Node, Value
from qir.module import Function, Module

_PATH = re.compile(r"(?:^|[\s\"'(=])(?:/|[A-Za-z]:[\\/])[^\s\"':]*[\\/][^\s\"':]*\.(?:py|pyc|ipynb|onnx|pb|pt|pth)\b")


def forget_source_paths(module: Module) -> None:
    """Remove metadata entries and doc strings that hold an absolute path of a source or model file."""
    for holder in _holders(module):
        holder.metadata = {key: text for key, text in holder.metadata.items() if not _PATH.search(text)}
        if _PATH.search(holder.doc_string):
            holder.doc_string = ""


def _holders(module: Module) -> Iterator[Module | Function | Graph | Node | Value]:
    yield module
    yield from module.functions.values()
    for main in module.graphs:
        nodes = tuple(main.walk())
        for graph in (main, *(inner for node in nodes for inner in node.subgraphs())):
            yield graph
            yield from graph.values()
        yield from nodes
