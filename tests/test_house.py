"""The house: floors, packages, what `import qir` loads, and where protobuf and comparisons of op names occur."""

import ast
import importlib.util
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import networkx as nx
import pytest

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("qir", "passes", "backends", "search", "models", "cli")
FLOORS = {"qir": 1, "backends": 2, "passes": 3, "search": 4, "cli": 5}
SOURCES = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]

OP_COMPARISONS = {
    "backends/execution/random_feed.py": "which operand holds the indices of a table",
    "qir/node.py": "the two ops of qir's own domain",
    "qir/rewriting/patterns.py": "patterns name the ops that they match",
    "qir/rewriting/engine.py": "rules are found by the op of their root",
    "qir/text/printer.py": "which names are printed without quotes",
    "passes/analysis/arithmetic/accumulator.py": "where the groups of a transposed convolution lie",
    "qir/constants.py": "the question itself, for rules",
    "passes/exporting/check.py": "pattern of the QDQ form",
    "passes/exporting/products.py": "which products ONNX Runtime has kernels of few bits for",
    "passes/lowering/lower_qcdq.py": "which products ONNX Runtime fuses with blocks of codes",
    "passes/lowering/nbits/rules.py": "which products become MatMulNBits",
    "passes/lowering/nbits/split_gemm.py": "Gemm as the products that have such kernels",
    "passes/lowering/saturation/layers.py": "pattern of the QDQ form and which kernels ONNX Runtime has",
    "passes/lowering/qonnx/check_finn.py": "what FINN's conversion knows",
    "passes/lowering/lower_qoperator.py": "which operators on codes there are",
    "passes/lowering/qonnx/lower_thresholds.py": "what FINN-ONNX has: MatMul and no Gemm",
    "passes/lowering/parts/marks.py": "pattern of the QDQ form",
    "passes/lowering/pack_weights.py": "pattern of the QDQ form",
    "passes/parity/judging/comparison.py": "what a session without fusion rounds from floats",
    "passes/parity/judging/walk.py": "where variants of the integer reference differ from it",
    "passes/parity/layers.py": "pattern of the QDQ form and what ONNX Runtime fuses",
    "passes/parity/class_scores.py": "which operators scores of classes end in",
    "passes/parity/layer_losses.py": "pattern of the QDQ form",
    "passes/parity/correspondence.py": "pattern of the QDQ form",
    "passes/exporting/c99/program.py": "which channels and windows a kernel takes",
    "passes/exporting/c99/pointwise.py": "one kernel for each op",
    "passes/exporting/c99/sums.py": "where the channels of a weight lie",
    "passes/exporting/c99/products.py": "where the channels of a weight lie",
    "passes/exporting/all_inputs.py": "pattern of the QDQ form",
    "passes/exporting/guide/reach.py": "a transposed convolution scatters its products",
    "passes/exporting/guide/trace.py": "patterns of the QDQ form and of windows",
    "passes/exporting/guide/multipliers.py": "which kernels of ONNX Runtime multiply by ratios of scales",
    "passes/analysis/arithmetic/rescaling.py": "what Mul does to scales; which means cover whole images",
    "backends/integer/operators.py": "operators on codes that no schema knows",
    "backends/integer/saturation.py": "which operators ONNX Runtime fuses, and how",
    "passes/raising/integers.py": "pattern of integer layers",
    "passes/raising/dequantize.py": "operators on codes, and what stands between them",
    "passes/raising/qonnx/qonnx.py": "pattern of the QONNX form",
    "passes/raising/driver.py": "pattern of quantized forms",
    "passes/insertion/quantizer_rules.py": "users name the ops that a rule is for",
    "passes/analysis/quantized_layers.py": "which values an activation lets through",
    "backends/training/distillation.py": "the statistics that BatchNormalization keeps",
    "backends/integer/reference.py": "an executor: one kernel for each op",
    "backends/costs/measured.py": "what ONNX Runtime fuses",
    "backends/costs/building/builder.py": "which activations pass through the memory once more",
    "backends/costs/building/widths.py": "what a target fuses",
    "backends/torch/graph.py": "control flow",
    "backends/vela/network.py": "one function writes each op",
    "backends/torch/ops/indexing.py": "one function lowers two ops",
}
"""Files outside qir/ops that compare the name of an op, with why no question to the registry would do."""


MOST_ENTRIES = 12
"""What a folder shows at most; the nouns of `qir/` are excepted."""

ACQUAINTED = {"graph", "node", "value", "attributes"}
"""The only files that know each other."""

NOT_PLAIN = {
    r"\bbehind\b": "after",
    r"\bbeside\b": "next to, with",
    r"(?<!there )(?<!There )\b(is|are) no (?!longer|such|more|less|need)": "is not a",
}
"""Words that newcomers stumble over, and what to write."""


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or "", node.lineno
            yield from ((f"{node.module}.{alias.name}", node.lineno) for alias in node.names)


def test_imports_point_down():
    wrong = []
    for path in SOURCES:
        folder = path.relative_to(ROOT).parts[0]
        if path == ROOT / "qir" / "__init__.py":
            continue
        for name, line in imports(path):
            parts = name.split(".")
            floor = parts[1] if len(parts) > 1 and parts[0] == "qir" and parts[1] in FOLDERS[1:] else "qir"
            if parts[0] != "qir" or floor == folder:
                continue
            if folder == "models" and floor != "qir":
                wrong.append(f"{path}:{line}: models imports {name}")
            elif folder != "models" and (
                (floor == "models" and folder != "cli") or FLOORS.get(floor, 0) > FLOORS[folder]
            ):
                wrong.append(f"{path}:{line}: {folder} imports {name}")
    assert not wrong, "\n".join(wrong)


def module_of(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    parts = parts[:-1] if parts[-1] == "__init__" else parts
    return parts if parts[0] == "qir" else ("qir", *parts)


def shown(folder):
    return sorted(
        entry.name
        for entry in folder.iterdir()
        if entry.name not in {"__init__.py", "__pycache__", "py.typed"} and not entry.name.startswith(".")
    )


def rooms(*tops):
    return [
        path
        for top in tops
        for path in sorted((ROOT / top).rglob("*"), key=str)
        if path.is_dir() and path.name != "__pycache__"
    ]


def test_a_folder_shows_at_most_twelve_entries():
    tops = (*FOLDERS[1:], "tests", "benchmarks", "tools", "docs")
    crowded = {
        folder.relative_to(ROOT).as_posix(): len(shown(folder))
        for folder in (*(ROOT / top for top in tops), *rooms(*FOLDERS, "tests", "benchmarks", "tools", "docs"))
        if len(shown(folder)) > MOST_ENTRIES
    }
    assert not crowded, f"folders that want rooms: {crowded}"


def arrows(folder, names):
    """Which entries of a folder import which others."""
    base = module_of(folder / "__init__.py")
    found = {}
    for path in sorted(folder.rglob("*.py")):
        own = module_of(path)
        if path.name == "__init__.py" or (folder == ROOT / "qir" and len(own) > 1 and own[1] in FOLDERS[1:]):
            continue
        for name, _ in imports(path):
            parts = tuple(name.split("."))
            if parts[: len(base)] != base or len(parts) == len(base) or parts not in names:
                continue
            entry, other = own[len(base)], parts[len(base)]
            if entry != other and not (folder == ROOT / "qir" and other in FOLDERS[1:]):
                found.setdefault(entry, set()).add(other)
    return found


def test_a_room_imports_only_rooms_below_it():
    names = {module_of(path) for path in SOURCES}
    circles = {}
    for folder in (*(ROOT / top for top in FOLDERS), *rooms(*FOLDERS)):
        graph = nx.DiGraph([(a, b) for a, others in arrows(folder, names).items() for b in others])
        for component in nx.strongly_connected_components(graph):
            if len(component) > 1 and not component <= ACQUAINTED:
                circles[folder.relative_to(ROOT).as_posix()] = sorted(component)
    assert not circles, circles


def test_english_is_plain():
    wrong = [
        f"{path.relative_to(ROOT)}:{number}: {pattern}: write {better}"
        for path in (*SOURCES, *sorted((ROOT / "docs").rglob("*.md")), ROOT / "README.md", ROOT / "CONTRIBUTING.md")
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        for pattern, better in NOT_PLAIN.items()
        if re.search(pattern, line)
    ]
    assert not wrong, "\n".join(wrong)


def test_every_benchmark_is_run_by_its_name(script):
    table = script("benchmarks/__main__.py").BENCHMARKS
    scripts = {p.relative_to(ROOT / "benchmarks").as_posix() for p in (ROOT / "benchmarks").rglob("*.py")}
    assert scripts - {benchmark.script for benchmark in table.values()} == {
        "__main__.py",
        "export/language/encoder.py",
        "export/language/model.py",
        "search/setting.py",
        "search/small_networks.py",
        "zoo_network.py",
    }
    documents = (*(ROOT / "docs").rglob("*.md"), ROOT / "README.md", *(ROOT / "benchmarks").rglob("*.py"))
    cited = {
        name for path in documents for name in re.findall(r"python benchmarks ([a-z][a-z-]*)", path.read_text("utf-8"))
    }
    assert cited <= {*table, "all"}, f"no such benchmark: {sorted(cited - table.keys())}"


def test_importing_qir_is_light():
    code = (
        "import qir, sys; print(*[m for m in ('torch','onnx','onnxruntime','networkx','pydantic') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_the_packages_are_the_folders():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    found = set()
    for folder in FOLDERS:
        for init in (ROOT / folder).rglob("__init__.py"):
            parts = init.parent.relative_to(ROOT).parts
            found.add(".".join(parts if parts[0] == "qir" else ("qir", *parts)))
    assert found == set(project["tool"]["setuptools"]["packages"])


def test_protobuf_stays_in_its_place():
    allowed = (ROOT / "qir" / "onnx_io", ROOT / "qir" / "ops")
    wrong = [
        f"{path}:{line}"
        for path in SOURCES
        if path.is_relative_to(ROOT / "qir") and not any(path.is_relative_to(place) for place in allowed)
        for name, line in imports(path)
        if name == "onnx" or name.startswith("onnx.")
    ]
    assert not wrong, "\n".join(wrong)


def compares_ops(path):
    return any(
        isinstance(node, ast.Compare)
        and any(isinstance(side, ast.Attribute) and side.attr == "op" for side in (node.left, *node.comparators))
        for node in ast.walk(ast.parse(path.read_text()))
    )


def test_ops_are_asked_of_the_registry():
    found = {
        path.relative_to(ROOT).as_posix()
        for path in SOURCES
        if not path.is_relative_to(ROOT / "qir" / "ops") and compares_ops(path)
    }
    assert not found - OP_COMPARISONS.keys(), "compare op names: ask qir.ops, or allow the file with a reason"
    assert not OP_COMPARISONS.keys() - found, "no longer compare op names: take them off the list"


@pytest.mark.parametrize("folder", ["qir", "passes", "backends", "search"])
def test_a_face_hands_out_no_name_that_a_room_or_file_next_to_it_has(folder):
    """Importing such a module would put it in the place of the name."""
    package = importlib.import_module(folder if folder == "qir" else f"qir.{folder}")
    modules = {name.removesuffix(".py") for name in shown(ROOT / folder)}
    assert not modules & set(package._HOME)


@pytest.mark.parametrize("folder", FOLDERS[1:])
def test_a_second_import_name_is_refused(folder):
    spec = importlib.util.spec_from_file_location(folder, ROOT / folder / "__init__.py")
    with pytest.raises(ImportError, match=f"qir.{folder}"):
        spec.loader.exec_module(importlib.util.module_from_spec(spec))


@pytest.mark.slow
def test_a_built_wheel_imports_every_module(tmp_path):
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--outdir", tmp_path, ROOT], check=True, capture_output=True
    )
    (wheel,) = tmp_path.glob("*.whl")
    place = tmp_path / "installed"
    subprocess.run([sys.executable, "-m", "zipfile", "-e", wheel, place], check=True)
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import importlib, pkgutil, qir\n"
        "assert qir.__file__.startswith(sys.argv[1]), qir.__file__\n"
        "for module in pkgutil.walk_packages(qir.__path__, 'qir.'): importlib.import_module(module.name)"
    )
    subprocess.run([sys.executable, "-c", code, str(place)], check=True, cwd=tmp_path)
