import io
import json
from dataclasses import dataclass
from typing import ClassVar, Literal

import pytest

from qir.backends import load_target
from qir.errors import MissingExtraError, ModelFileError, PassError, TargetError
from qir.graph import Graph, Node
from qir.module import Module
from qir.passes import Pass, PassContext, PassManager, Repeat, available_passes, find_pass
from qir.passes.infrastructure.contract import Analysis
from qir.passes.infrastructure.instruments import ChangeCounts, DumpIR, Instrument, PrintAfter, Timing, VerifyEach
from qir.passes.infrastructure.reproducer import KEPT
from qir.types import DType, tensor_type


@dataclass(frozen=True)
class AppendRelu(Pass):
    name: ClassVar[str] = "append-relu"
    most: int = 100

    def run(self, module, context):
        if len(module.graph) >= self.most:
            return False
        last = module.graph.outputs[0]
        node = module.graph.append(Node("Relu", (last,)))
        node.result.type = last.type
        module.graph.set_outputs((node.result,), module.graph.output_names)
        return True


@dataclass(frozen=True)
class AppendThrough(Pass):
    """Runs other passes; around the second a result has a wrong type, which verification refuses."""

    name: ClassVar[str] = "append-through"

    def run(self, module, context):
        context.run(AppendRelu(), module)
        result, type_ = module.graph.outputs[0], module.graph.outputs[0].type
        result.type = tensor_type(DType.INT8, (3,))
        context.run(Touch(), module)
        result.type = type_
        context.reports[self.name] = {"nodes": len(module.graph)}
        return True


@dataclass(frozen=True)
class Touch(Pass):
    name: ClassVar[str] = "touch"

    def run(self, module, context):
        module.graph.outputs[0].type = module.graph.outputs[0].type
        if context.reports.get("fail-in") == self.name:
            raise ValueError("boom")
        return True


@dataclass(frozen=True)
class Fail(Pass):
    name: ClassVar[str] = "fail"
    mode: Literal["error", "target", "package", "interrupted"] = "error"

    def run(self, module, context):
        if self.mode == "package":
            raise MissingExtraError("gymnasium", "search")
        if self.mode == "target":
            context.require("target")
        if self.mode == "interrupted":
            raise ImportError("initialization failed") from KeyboardInterrupt()
        raise ValueError("boom")


@dataclass(frozen=True)
class NodeCount(Analysis[int]):
    reads_policy: ClassVar[bool] = False

    def compute(self, module):
        module.meta["computed"] = module.meta.get("computed", 0) + 1
        return len(module.graph)


@pytest.fixture
def module():
    graph = Graph("g")
    x = graph.add_input("x", tensor_type(DType.FLOAT32, (1, 4)))
    node = graph.append(Node("Relu", (x,), ("y",)))
    node.result.type = x.type
    graph.set_outputs((node.result,))
    return Module(graph)


def test_run_tells_whether_something_changed(module):
    assert PassManager([AppendRelu()]).run(module)
    assert not PassManager([AppendRelu(most=1)]).run(module)


def test_repeat_stops_at_the_fixed_point(module):
    assert PassManager([Repeat((AppendRelu(most=4),))]).run(module)
    assert len(module.graph) == 4


def test_repeat_raises_at_its_bound(module):
    with pytest.raises(PassError, match="after 3 rounds append-relu still"):
        PassManager([Repeat((AppendRelu(),), limit=3)], reproducers=False).run(module)


def test_failure_names_pass_history_and_reproducer(module, tmp_path):
    with pytest.raises(PassError, match=r"pass fail: ValueError: boom \(after append-relu\).*--replay") as caught:
        PassManager([AppendRelu(), Fail()], reproducers=tmp_path).run(module)
    assert isinstance(caught.value.__cause__, ValueError)
    (folder,) = tmp_path.iterdir()
    run = json.loads((folder / "run.json").read_text())
    assert run["pipeline"] == "append-relu,fail"
    assert (folder / "module.onnx").exists()


def test_the_newest_reproducers_are_kept(module, tmp_path):
    for _ in range(KEPT + 3):
        with pytest.raises(PassError, match="boom"):
            PassManager([Fail()], reproducers=tmp_path).run(module)
    assert len(list(tmp_path.iterdir())) == KEPT


def test_an_interruption_that_an_import_turned_into_an_error_is_none(module, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        PassManager([Fail(mode="interrupted")], reproducers=tmp_path).run(module)
    assert not list(tmp_path.iterdir())


def test_a_missing_object_is_named_with_its_flag(module, tmp_path):
    with pytest.raises(PassError, match=r"PassContext\(target=...\), or --target in the shell"):
        PassManager([Fail(mode="target")], reproducers=tmp_path).run(module)
    assert not list(tmp_path.iterdir())
    with pytest.raises(PassError, match=r"calibration_data.*--data"):
        PassContext().require("calibration_data")


def test_a_missing_package_is_not_a_failure_of_the_pass(module, tmp_path):
    with pytest.raises(MissingExtraError, match=r"^this needs the package 'gymnasium'.*'qir\[search\]'`$"):
        PassManager([Fail(mode="package")], reproducers=tmp_path).run(module)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_dumped_to_is_refused_before_a_pass_runs(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ModelFileError, match="is not a folder"):
        DumpIR(tmp_path / "file")


def test_an_analysis_is_kept_until_the_module_changes(module):
    context = PassContext()
    assert [context.analyses.get(NodeCount(), module) for _ in range(3)] == [1, 1, 1]
    assert module.meta["computed"] == 1
    AppendRelu().run(module, context)
    assert context.analyses.get(NodeCount(), module) == 2
    module.clock.policy_version += 1
    assert context.analyses.get(NodeCount(), module) == 2
    assert module.meta["computed"] == 2


def test_instruments_see_every_pass(module):
    timing, counts = Timing(), ChangeCounts()
    PassManager([AppendRelu(), Repeat((AppendRelu(most=3),))], (timing, counts)).run(module)
    assert [name for name, _ in timing.seconds] == ["append-relu", "append-relu{most=3}", "append-relu{most=3}"]
    assert counts.changes[0] == ("append-relu", {"Relu": 1})
    assert counts.changes[-1] == ("append-relu{most=3}", {})
    assert "append-relu" in timing.report()


def test_text_is_printed_and_dumped(module, tmp_path):
    stream = io.StringIO()
    PassManager([AppendRelu(), AppendRelu(most=1)], (PrintAfter(stream), DumpIR(tmp_path / "ir"))).run(module)
    assert stream.getvalue().count("// after append-relu") == 1
    files = sorted(path.name for path in (tmp_path / "ir").iterdir())
    assert files == ["00-input.qir", "01-append-relu.qir", "02-append-relu.qir"]
    assert (tmp_path / "ir" / files[0]).read_text() != (tmp_path / "ir" / files[1]).read_text()


def test_a_run_returns_what_passes_report(module):
    context = PassContext(reports={"earlier": 1})
    found = PassManager([AppendThrough(), AppendRelu(most=0)]).run(module, context)
    assert found
    assert found.changed is True
    assert found.reports == {"earlier": 1, "append-through": {"nodes": 2}}
    again = PassManager([AppendRelu(most=0)]).run(module)
    assert not again
    assert again.reports == {}


def test_passes_that_a_pass_runs_are_seen_and_verified_with_it(module):
    timing, counts = Timing(), ChangeCounts()
    PassManager([AppendThrough()], [VerifyEach(), timing, counts]).run(module)
    assert [name for name, _ in timing.seconds] == ["append-relu", "touch", "append-through"]
    assert counts.changes == [("append-relu", {"Relu": 1}), ("touch", {}), ("append-through", {"Relu": 1})]
    assert all(seconds >= 0 for _, seconds in timing.seconds)


def test_a_failure_inside_a_pass_is_that_of_the_pass(module, tmp_path):
    context = PassContext(reports={"fail-in": "touch"})
    with pytest.raises(PassError, match=r"pass append-through: ValueError: boom.*--replay") as caught:
        PassManager([AppendThrough()], reproducers=tmp_path).run(module, context)
    assert "append-relu" not in str(caught.value)


def test_a_target_is_an_object_a_name_or_a_file(tmp_path):
    target = load_target("npu-148")
    target.save(tmp_path / "mine.json")
    for given in (target, "npu-148", tmp_path / "mine.json", str(tmp_path / "mine.json")):
        assert PassContext(target=given).target == target
    with pytest.raises(TargetError, match="did you mean 'npu-148'"):
        PassContext(target="npu-149")


def test_an_instrument_that_refuses_blames_the_pass(module):
    class Refuse(Instrument):
        def after(self, step, module, changed):
            raise RuntimeError("no")

    with pytest.raises(PassError, match="pass append-relu: RuntimeError: no"):
        PassManager([AppendRelu()], (Refuse(),), reproducers=False).run(module)


def test_an_unknown_pass_gets_a_suggestion():
    with pytest.raises(PassError, match="did you mean 'fold-constants'"):
        find_pass("fold-constant")
    assert "fold-batchnorm" in available_passes()
