"""The way from a network to a verified file where torch is not installed: every import of it is refused."""

import json
import subprocess
import sys
import textwrap

import pytest

from qir import models

BLOCK = """
import sys
class Refused:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "torch":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Refused())
"""

VERBS = textwrap.dedent(
    """
    import json
    from typer.testing import CliRunner
    from qir.cli.main import make_app
    for line in sys.argv[1:]:
        done = CliRunner().invoke(make_app(), line.split(), catch_exceptions=True)
        said = str(done.exception) if done.exception and not isinstance(done.exception, SystemExit) else done.output
        print(json.dumps([line.split()[0], done.exit_code, said]))
    print(json.dumps(["torch", 0, str(sorted(name for name in sys.modules if name.partition(".")[0] == "torch"))]))
    """
)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    import numpy as np

    path = tmp_path_factory.mktemp("data") / "images.npy"
    np.save(path, models.fashion_mnist("calibration").images[:64])
    return path


def run(code, *lines):
    done = subprocess.run([sys.executable, "-P", "-c", code, *lines], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_a_network_is_quantized_under_a_budget_verified_and_exported_without_torch(tmp_path, images):
    out = tmp_path / "q.onnx"
    found = run(
        BLOCK + VERBS,
        "inspect lenet",
        "cost lenet --target npu-148",
        f"opt lenet -p fold-constants -o {tmp_path / 'o.onnx'}",
        f"quantize lenet --data {images} --target npu-148 -b latency=0.5x -o {out} --save {tmp_path / 'd.json'}",
        f"verify {out}",
        f"export {out} --profile qonnx -o {tmp_path / 'qonnx.onnx'}",
        f"eval lenet {out} --data {images}",
        f"explain {tmp_path / 'd.json'} conv2",
    )
    assert [(verb, code) for verb, code, said in found if code] == [], [said for _, code, said in found if code]
    said = {verb: text for verb, _, text in found}
    assert "bits are chosen by output-distance: torch" in " ".join(said["quantize"].split())
    assert "certificate optimal" in said["quantize"]
    assert "codes covered: exact" in said["verify"]
    assert said["torch"] == "[]"


@pytest.mark.parametrize(
    "options",
    ["--sensitivity taylor -b size=0.5x", "--adaround", "--method random --labels {labels} -b size=0.5x"],
    ids=["metric", "adaround", "search"],
)
def test_what_needs_torch_names_the_line_that_installs_it_for_the_cpu(tmp_path, images, options):
    import numpy as np

    np.save(tmp_path / "labels.npy", np.zeros(64, np.int64))
    verb = f"quantize lenet --data {images} -o {tmp_path / 'q.onnx'} {options.format(labels=tmp_path / 'labels.npy')}"
    found = run(BLOCK + VERBS, verb)
    assert found[0][1] != 0
    assert "pip install torch --index-url https://download.pytorch.org/whl/cpu" in found[0][2]
    assert "qir[torch]" in found[0][2]
    assert not (tmp_path / "q.onnx").exists()


def test_widest_bits_are_written_without_importing_torch_where_it_is_installed(tmp_path, images):
    found = run("import sys\n" + VERBS, f"quantize lenet --data {images} --target npu-148 -o {tmp_path / 'q.onnx'}")
    assert found[0][1] == 0, found[0][2]
    assert found[1][2] == "[]"
