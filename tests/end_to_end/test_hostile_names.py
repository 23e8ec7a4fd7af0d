"""What is printed cannot lie: names from a file forge no line, color none, and turn none around, in any verb."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from typer.testing import CliRunner

import qir
from qir.cli.main import VERBS, make_app
from qir.support.printable import html_text, printable
from qir.views.drawing import to_html, to_svg

ROOT = Path(qir.__file__).resolve().parents[1]
FORGED = "bit-exact: 9 of 9 codes covered"
HOSTILE = f"\x1b]0;title\x07\x1b[31m\r\n{FORGED}\n\u202eevil\u2066 [bold red]x[/] :smile: <b id=forged>&\x9b1m\u2028"
IMAGES = np.random.default_rng(0).normal(size=(24, 3, 8, 8)).astype(np.float32)
LABELS = np.arange(24) % 4


def named(text: str) -> str:
    return text + HOSTILE


def write_network(path: Path) -> None:
    """Convolutions, a node that stays float, a classifier: every name that a file may hold is hostile."""
    node = helper.make_node
    nodes = [
        node("Conv", [named("x"), named("w")], [named("a")], name=named("conv"), pads=[1, 1, 1, 1]),
        node("Relu", [named("a")], [named("b")], name=named("relu")),
        node("Conv", [named("b"), named("v")], [named("c")], name=named("last conv")),
        node("Erf", [named("c")], [named("d")], name=named("float")),
        node("GlobalAveragePool", [named("d")], [named("e")], name=named("mean")),
        node("Flatten", [named("e")], [named("f")], name=named("flat")),
        node("Gemm", [named("f"), named("m")], [named("y")], name=named("head")),
    ]
    random = np.random.default_rng(1)
    shapes = {"w": (4, 3, 3, 3), "v": (4, 4, 3, 3), "m": (4, 4)}
    constants = [
        numpy_helper.from_array(random.normal(size=shape).astype(np.float32), named(name))
        for name, shape in shapes.items()
    ]
    graph = helper.make_graph(
        nodes,
        named("g"),
        [helper.make_tensor_value_info(named("x"), TensorProto.FLOAT, [named("N"), 3, 8, 8])],
        [helper.make_tensor_value_info(named("y"), TensorProto.FLOAT, [named("N"), 4])],
        constants,
        doc_string=HOSTILE,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8, producer_name=HOSTILE)
    helper.set_model_props(model, {named("key"): HOSTILE})
    onnx.save(model, path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """The network, its data, and what the verbs make of them for other verbs to read."""
    found = tmp_path_factory.mktemp("hostile")
    write_network(found / "m.onnx")
    np.save(found / "x.npy", IMAGES)
    for name, part in (("train", slice(0, 12)), ("validation", slice(12, 24))):
        np.savez(found / f"{name}.npz", images=IMAGES[part], labels=LABELS[part])
    outcome = run(found, "quantize", "m.onnx", "--data", "x.npy", "-o", "m.quant.onnx")
    assert outcome.exit_code == 0, outcome.output
    return found


def run(folder: Path, *arguments: str):
    """A verb, with its files in the folder."""
    files = (".onnx", ".npy", ".npz", ".json", ".html", ".toml")
    return CliRunner().invoke(make_app(), [str(folder / text) if text.endswith(files) else text for text in arguments])


def assert_honest(text: str) -> None:
    """Every line is printable, and no line is one that a name forged."""
    for line in text.split("\n"):
        assert line.isprintable(), ascii(line)
        assert not line.startswith(FORGED), line


SEARCH = (
    "m.onnx -d x.npy --train train.npz --validation validation.npz --method random --evaluations 1 --result r.json "
    "-o s.quant.onnx"
)
COMMANDS = {
    "opt": [
        ["m.onnx"],
        ["m.onnx", "-p", "fold-constants,insert-fake-quant,calibrate", "-d", "x.npy", "--print-after", "--timing"],
    ],
    "inspect": [["m.onnx"], ["m.onnx", "--json"]],
    "eval": [["m.onnx", "m.quant.onnx", "--data", "x.npy"]],
    "compare": [["m.quant.onnx", "m.quant.onnx"]],
    "targets": [[], ["npu-148"]],
    "target": [["new", "my-npu.json"], ["check", "my-npu.json", "-n", "m.onnx"]],
    "recipes": [[]],
    "profiles": [[]],
    "cost": [["m.onnx"], ["m.onnx", "--explain", "all", "-t", "bismo-16x16x256"]],
    "quantize": [
        ["m.onnx", "--data", "x.npy", "-t", "npu-148", "-b", "latency=0.8x", "-o", "q.quant.onnx", "--save", "q.json"]
    ],
    "explain": [["q.json", named("conv")]],
    "export": [["m.quant.onnx", "--profile", "qoperator", "-o", "e.quant.onnx"]],
    "verify": [["m.quant.onnx"], ["m.quant.onnx", "--against", "m.onnx", "--data", "x.npy", "--all"]],
    "search": [SEARCH.split()],
    "init": [["job.toml"]],
    "run": [["s.job.toml", "--", "-o", "again.quant.onnx"]],
    "report": [["r.json", "-o", "r.html"]],
}


def test_every_verb_is_tried() -> None:
    assert COMMANDS.keys() == set(VERBS)


@pytest.mark.named_nodes
@pytest.mark.parametrize("verb", COMMANDS)
def test_no_verb_prints_what_a_name_forges(folder, verb) -> None:
    for arguments in COMMANDS[verb]:
        done = run(folder, verb, *arguments)
        assert done.exit_code == 0, (done.output, done.exception)
        assert_honest(done.output)
    if verb == "report":
        page = (folder / "r.html").read_text()
        assert "<b id=forged" not in page  # the script sets text, never markup: tests/search/report/test_page.py


@pytest.mark.parametrize(
    "arguments",
    [
        ["quantize", "m.onnx", "--data", "nothing.npz"],
        ["verify", "m.onnx"],
        ["export", "m.onnx"],
        ["cost", "m.onnx", "--shape", "nothing=1"],
        ["cost", "m.onnx", "--explain", "nothing"],
        ["quantize", "m.onnx", "--data", "x.npy", "-t", "npu-148", "-b", "latency=0.001x"],
    ],
)
def test_errors_are_one_line_whatever_the_names(folder, arguments) -> None:
    command = [sys.executable, "-c", "from qir.cli.main import main; main()", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, cwd=folder)
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert_honest(done.stderr)


def test_drawings_show_names_as_text(folder) -> None:
    graph = qir.load(folder / "m.onnx").graph
    for text in (to_svg(graph), to_html(graph)):
        assert_honest(text)
    assert "<b id=forged" not in to_html(graph)


def test_printable_text_stays_and_the_rest_is_escaped() -> None:
    assert printable("Größe 5 µm [a] …") == "Größe 5 µm [a] …"
    assert printable(HOSTILE).isprintable()
    assert printable("a\n\x1b\u202e\ud800") == "a\\n\\x1b\\u202e\\ud800"
    assert html_text("<a>\n") == "&lt;a&gt;\\n"


def test_only_one_console_prints() -> None:
    """Consoles are `qir.support.terminal.Terminal`; what prints without one writes no names, or in the text form."""
    allowed = {
        "qir/support/terminal.py", "qir/guide.py", "passes/infrastructure/instruments.py",
    }  # fmt: skip
    found = set()
    for path in (p for f in ("qir", "backends", "passes", "search", "cli") for p in (ROOT / f).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            prints = isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
            imports = isinstance(node, ast.ImportFrom) and node.module == "rich.console"
            if prints or (imports and any(alias.name == "Console" for alias in node.names)):
                found.add(path.relative_to(ROOT).as_posix())
    assert found <= allowed
