"""C99 of a network compiles without a word and computes every output code of the integer reference."""

from __future__ import annotations

import re
import shutil
import subprocess
from itertools import product

import pytest

from qir.errors import ExportError
from qir.guide import read_guide
from qir.passes import export
from qir.passes.exporting.build_guide import build_guide
from qir.passes.exporting.c99 import prove
from qir.passes.exporting.c99.build import WARNINGS, compiler, run_codes
from qir.passes.exporting.c99.generate import c_sources
from qir.passes.exporting.guide.reader import GuideReader

pytestmark = pytest.mark.skipif(compiler() is None, reason="no C compiler (cc) on this machine")

NETWORKS = (
    "clipped addition", "two quantizers", "shared weight", "padding and slices", "depth to space",
    "dilated and strided", "averages", "one dimension", "three dimensions", "attention", "rows",
    "transposed convolution", "products", "many channels",
)  # fmt: skip
SANITIZED = (*WARNINGS, "-fsanitize=undefined,address", "-fno-sanitize-recover")


MACHINES = {
    "clang": ("clang", ()),
    "clang, sanitizers": ("clang", ()),
    "Arm, 32 bits": ("arm-linux-gnueabihf-gcc", ("qemu-arm",)),
    "RISC-V": ("riscv64-linux-gnu-gcc", ("qemu-riscv64",)),
    "PowerPC, big-endian": ("powerpc-linux-gnu-gcc", ("qemu-ppc",)),
}
"""Other compilers, and what runs their programs."""


def differing(module, feeds, folder, *, flags=WARNINGS, kind="dyadic", **machine) -> tuple[int, int]:
    """Output codes that differ from the integer reference, and how many there are."""
    guide, weights = build_guide(module, weights_file="w.bin", requantization=kind)
    sources = c_sources(guide, weights, "net")
    inputs, outputs = prove._expected(module, guide, GuideReader(guide, weights), sources, [feeds])
    found = run_codes(sources, inputs, folder, flags, **machine)
    pairs = [
        (a, b.reshape(-1)) for one, other in zip(found, outputs, strict=True) for a, b in zip(one, other, strict=True)
    ]
    return sum(int((a != b).sum()) for a, b in pairs), sum(b.size for _, b in pairs)


@pytest.mark.parametrize(
    "widths", [(3, 4), pytest.param((8, 8), marks=pytest.mark.slow), pytest.param((1, 2), marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("name", NETWORKS)
def test_networks_of_every_operator_give_the_codes_of_the_reference(small_network, tmp_path, name, widths) -> None:
    module, feeds = small_network(name, widths=widths)
    wrong, codes = differing(module, feeds, tmp_path, flags=SANITIZED)
    assert codes > 0
    assert wrong == 0


def pairs():
    fast = {(1, 1), (5, 3), (7, 8), (8, 1)}
    for weight in range(1, 9):
        for activation in range(1, 9):
            slow = [] if (weight, activation) in fast else [pytest.mark.slow]
            yield pytest.param(weight, activation, marks=slow)


@pytest.mark.parametrize(("weight", "activation"), pairs())
def test_every_pair_of_widths_gives_the_codes_of_the_reference(random_network, tmp_path, weight, activation) -> None:
    network, module = random_network(6, weight, activation)
    wrong, codes = differing(module, {"input": network.images(4)}, tmp_path)
    assert (wrong, codes) == (0, 20)


@pytest.mark.slow
@pytest.mark.parametrize("machine", MACHINES)
def test_other_compilers_and_machines_give_the_codes_of_the_reference(
    small_network, random_network, tmp_path, machine
) -> None:
    tool, emulator = MACHINES[machine]
    missing = [name for name in (tool, *emulator) if shutil.which(name) is None]
    if missing:
        pytest.skip(f"{' and '.join(missing)} not installed")
    flags = SANITIZED if "sanitizers" in machine else (*WARNINGS, *(["-static"] if emulator else []))
    (tmp_path / "empty.c").write_text("int main(void) { return 0; }\n")
    if subprocess.run([tool, *flags, "empty.c"], cwd=tmp_path, capture_output=True, check=False).returncode:
        pytest.skip(f"{tool} has not what it links {' '.join(flags[len(WARNINGS) :])} with")
    wrong = codes = 0
    for name in NETWORKS:
        module, feeds = small_network(name, widths=(5, 4))
        counted = differing(module, feeds, tmp_path, flags=flags, tool=tool, emulator=emulator)
        wrong, codes = wrong + counted[0], codes + counted[1]
    for weight, activation in product(range(1, 9), repeat=2):
        network, module = random_network(6, weight, activation)
        feeds = {"input": network.images(4)}
        counted = differing(module, feeds, tmp_path, flags=flags, tool=tool, emulator=emulator)
        wrong, codes = wrong + counted[0], codes + counted[1]
    assert wrong == 0
    assert codes > 64 * 20


@pytest.mark.named_nodes
def test_what_has_no_kernel_is_refused_by_name_and_nothing_is_written(small_network, tmp_path) -> None:
    module, feeds = small_network("islands")
    with pytest.raises(ExportError, match=r"step Softmax 'soft\.node' does not run on integers"):
        export(module, tmp_path / "net.c", profile="c99", data=[feeds])
    assert not list(tmp_path.iterdir())


def test_header_source_and_self_test_are_written_with_their_proof(random_network, tmp_path) -> None:
    network, module = random_network(5, 3, 5)
    report = export(module, tmp_path / "my-net.c", profile="c99", data=network.images(20))
    assert {path.name for path in tmp_path.iterdir()} == {
        "my_net.h", "my_net.c", "my_net_test.c", "my-net.guide.json", "my-net.weights.bin", "my-net.quant.onnx",
    }  # fmt: skip
    guide = read_guide(report.guide)
    assert guide.requantization.kind == "dyadic"
    assert guide.source == report.source
    assert (guide.source.samples, guide.source.codes) == (16, 80)
    flags = [compiler(), *WARNINGS, "my_net.c", "my_net_test.c", "-o", "test"]
    subprocess.run(flags, cwd=tmp_path, check=True)
    done = subprocess.run([tmp_path / "test"], capture_output=True, text=True, check=True)
    assert done.stdout == "0 codes differ\n"


def test_the_source_needs_no_heap_and_no_floats(random_network) -> None:
    _, module = random_network(3, 4, 4)
    guide, weights = build_guide(module, weights_file="w.bin", requantization="dyadic")
    sources = c_sources(guide, weights, "net")
    text = re.sub(r"/\*.*?\*/", "", sources.header + sources.source, flags=re.DOTALL)
    assert re.findall(r"#include (\S+)", text) == ["<stdint.h>", '"net.h"']
    assert not re.search(r"\b(float|double|malloc|free|calloc)\b", text)


def test_a_source_that_computes_something_else_is_refused(random_network, tmp_path, monkeypatch) -> None:
    network, module = random_network(5, 4, 4)

    def off_by_one(*arguments):
        return [[codes + 1 for codes in sample] for sample in run_codes(*arguments)]

    monkeypatch.setattr(prove, "run_codes", off_by_one)
    with pytest.raises(ExportError, match=r"80 of 80 codes of output .* differ from the integer reference"):
        export(module, tmp_path / "net.c", profile="c99", data=network.images(20))
    assert not list(tmp_path.iterdir())


def test_without_a_compiler_the_report_says_that_nothing_was_compared(random_network, tmp_path, monkeypatch) -> None:
    network, module = random_network(5, 4, 4)
    monkeypatch.setattr(prove, "compiler", lambda: None)
    report = export(module, tmp_path / "net.c", profile="c99", data=network.images(4))
    assert (report.source.compiler, report.source.codes) == ("", 0)


@pytest.mark.parametrize("name", ["*/ int x; /*", "int"])
def test_names_of_files_and_nodes_cannot_break_the_source(small_network, tmp_path, name) -> None:
    module, feeds = small_network("many channels")
    for node in module.graph:
        node.name = f"{name}.{node.name}" if not node.is_fake_quant else node.name
    guide, weights = build_guide(module, weights_file="w.bin", requantization="dyadic")
    sources = c_sources(guide, weights, name)
    inputs, _ = prove._expected(module, guide, GuideReader(guide, weights), sources, [feeds])
    assert len(run_codes(sources, inputs, tmp_path)) == 4


def test_power_of_two_scales_are_shifts_in_c_too(small_network, tmp_path) -> None:
    module, feeds = small_network("two quantizers", more="power-of-two-scales")
    assert differing(module, feeds, tmp_path, kind="power-of-two")[0] == 0
