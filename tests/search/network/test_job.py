"""A job goes from a network to files in stages; its outcome says what was decided, what it costs and how good it is."""

import json

import numpy as np
import onnxruntime
import pytest

import qir
import qir.models
from qir.errors import DataError, QirError, SearchError
from qir.search import Job, Quantized, Splits

LENET = qir.models.path("lenet")


def outputs(path, images):
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: images})[0]


@pytest.fixture(scope="module")
def images():
    return qir.models.fashion_mnist("calibration").images[:64]


@pytest.fixture(scope="module")
def done(images, tmp_path_factory):
    folder = tmp_path_factory.mktemp("done")
    return qir.quantize(LENET, target="npu-148", data=images, budgets={"latency": "0.5x"}, output=folder)


@pytest.fixture(scope="module")
def labelled():
    return {
        name: qir.models.fashion_mnist(name).take(60) for name in ("calibration", "retraining", "search-validation")
    }


def test_a_folder_as_output_holds_files_called_after_the_network(done):
    assert {path.name for path in done.files.values()} == {
        "lenet_fashion_mnist.quant.onnx",
        "lenet_fashion_mnist.guide.json",
        "lenet_fashion_mnist.weights.bin",
    }


def test_the_table_holds_float_the_uniform_widths_and_what_was_chosen(done):
    assert [row.label for row in done.rows] == ["float", "uniform 8", "uniform 4", "uniform 2/1", "chosen"]
    uniform, chosen = done.rows[1], done.rows[-1]
    assert not uniform.within
    assert chosen.within
    assert chosen.share <= 0.5
    assert chosen.disk_bytes == done.written.model.stat().st_size
    assert chosen.cycles == json.loads(done.written.guide.read_text())["total_cycles"]


def test_agreement_of_a_row_is_that_of_onnx_runtime_on_both_files(done, images):
    exact, found = outputs(LENET, images), outputs(done.written.model, images)
    assert done.rows[-1].agreeing == pytest.approx((exact.argmax(1) == found.argmax(1)).mean())
    noise = 10 * np.log10((exact.astype(np.float64) ** 2).sum() / ((exact - found).astype(np.float64) ** 2).sum())
    assert done.rows[-1].sqnr == pytest.approx(noise)


def test_it_says_what_was_decided_and_why(done):
    assert done.certificate.startswith("optimal")
    assert done.selected_by == "sensitivity gauss-newton"
    assert dict(done.policy) == {**done.policy, **done.result.policy}
    assert done.accuracy is None


def test_printed_it_is_a_table_with_the_files(done):
    text = repr(done)
    assert text == str(done)
    assert all(row.label in text for row in done.rows)
    assert str(done.written.model) in text
    assert "optimal" in text
    assert done._repr_html_().startswith("<table>")


def test_what_was_saved_reads_back_and_needs_no_network(done, tmp_path):
    again = Quantized.load(done.save(tmp_path / "done.json"))
    assert str(again) == str(done)
    assert again.policy == done.policy
    assert again.provenance == done.provenance
    assert again.target == done.target
    page = again.report(tmp_path / "report.html").read_text(encoding="utf-8")
    assert "uniform 2/1" in page
    assert "Bits per layer" in page


def test_another_profile_computes_the_same(done, images, tmp_path):
    again = Quantized.load(done.save(tmp_path / "done.json"))
    for number, source in enumerate((done, again)):
        report = source.export(tmp_path / f"{number}.onnx", profile="qdq-int4")
        np.testing.assert_allclose(outputs(report.model, images), outputs(done.written.model, images), atol=1e-4)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"written": 3}'])
def test_a_file_of_something_else_is_refused_by_name(text, tmp_path):
    path = tmp_path / "other.json"
    path.write_text(text)
    with pytest.raises(SearchError, match=r"other\.json: is not a saved quantization"):
        Quantized.load(path)


def test_without_a_budget_every_quantizer_is_at_its_widest(images, tmp_path):
    done = qir.quantize(LENET, target="npu-148", data=images, output=tmp_path / "m.onnx")
    assert done.result is None
    assert set(done.policy.values()) == {8}
    assert [row.label for row in done.rows] == ["float", "uniform 4", "uniform 2/1", "chosen"]
    assert done.rows[1].agreeing is None


def test_stages_are_kept_and_the_last_result_is_written(images, tmp_path):
    job = Job(LENET, "npu-148", Splits.read(images), budgets={"latency": "0.5x"})
    assert job.constraints is job.constraints
    first = job.solve("greedy")
    second = job.solve("milp")
    assert job.result is second
    assert second.value <= first.value
    assert job.finish() is job.finish(second.policy)
    report = job.export(tmp_path / "m.onnx")
    assert job.outcome(compare=False).written is report


def test_an_outcome_without_files_is_refused(images):
    with pytest.raises(QirError, match="export the job first"):
        Job(LENET, "npu-148", Splits.read(images)).outcome()


def test_a_calibrated_network_keeps_its_quantizers(images):
    module = qir.run_passes(qir.load(LENET), "fold-constants,fold-batchnorm,insert-fake-quant,calibrate", data=images)
    names = {node.name for node in module.graph.fake_quants()}
    job = Job(module, "npu-148", Splits.read(images))
    assert {node.name for node in job.finish().graph.fake_quants()} == names


def test_one_labelled_set_is_divided_without_overlap_and_at_random():
    labels = np.repeat(np.arange(4), 25)
    images = np.arange(100 * 784, dtype=np.float32).reshape(100, 1, 28, 28)
    splits = Splits.read(images, labels=labels).divided(qir.load(LENET))
    parts = [splits.calibration, splits.validation, splits.retraining]
    assert [len(part.labels) for part in parts] == [25, 25, 50]
    assert len({float(image[0, 0, 0]) for part in parts for image in part.images}) == 100
    assert all(set(part.labels) == {0, 1, 2, 3} for part in parts)


def test_a_method_that_measures_needs_labels(images, tmp_path):
    with pytest.raises(DataError, match="give labels"):
        qir.quantize(LENET, target="npu-148", data=images, method="random", output=tmp_path / "m.onnx")
    assert not list(tmp_path.iterdir())


def test_an_image_in_two_splits_is_refused(labelled):
    with pytest.raises(DataError, match="disjoint"):
        Splits.read(None, retraining=labelled["retraining"], test=labelled["retraining"])


@pytest.mark.slow
def test_labels_and_a_measuring_method_retrain_and_tell_accuracy_with_its_split(tmp_path):
    samples = qir.models.fashion_mnist("retraining").take(240)
    test = qir.models.fashion_mnist("test").take(200)
    done = qir.quantize(
        LENET,
        target="npu-148",
        data=samples.images,
        labels=samples.labels,
        test=test,
        method="random",
        evaluations=2,
        budgets={"latency": "0.5x"},
        output=tmp_path / "m.onnx",
        compare=False,
    )
    assert not done.result.minimised
    assert len(done.result.evaluations) == 2
    assert done.accuracy.split == "test"
    assert done.accuracy.quantized_right == (outputs(done.written.model, test.images).argmax(1) == test.labels).sum()
    assert done.provenance["splits"]["retraining"] == "120 of the 240 samples given"


def test_names_at_the_front_door_are_found_where_they_are_defined(images):
    for name in qir.__all__:
        assert getattr(qir, name) is not None
    module = qir.load(LENET)
    assert qir.cost(module, "npu-148").target == "npu-148"
    np.testing.assert_array_equal(qir.evaluate(module, images)["logits"], outputs(LENET, images))


def test_a_network_with_fake_quant_nodes_is_not_evaluated_before_export(images):
    module = qir.run_passes(qir.load(LENET), "insert-fake-quant,calibrate", data=images)
    with pytest.raises(QirError, match="export it first"):
        qir.evaluate(module, images)


def test_policies_are_compared_with_the_float_network_and_the_page_shows_it_with_every_search(labelled, tmp_path):
    calibration, _, validation = labelled.values()
    splits = Splits.read(calibration, validation=validation, test=qir.models.fashion_mnist("test").take(50))
    job = Job(LENET, "npu-148", splits, budgets={"latency": "0.5x"})
    found = job.solve("random", evaluations=2)
    job.solve("evolution", evaluations=2)
    job.adopt(found)
    table = job.compare({"uniform 8": 8, "found": found.policy})
    assert [row.label for row in table.rows] == ["fp32", "uniform 8", "found"]
    assert [row.within for row in table.rows] == [True, False, True]
    assert table.rows[-1].ratio <= 0.5
    assert table.verdict().startswith("found: nothing within the budget is more accurate")
    job.export(tmp_path / "m.onnx")
    done = job.outcome(compare=False)
    assert done.policy.items() >= found.policy.items()
    assert done.compared == tuple(table.table())
    page = done.report(tmp_path / "report.html").read_text(encoding="utf-8")
    assert all(text in page for text in ("fp32", '"label":"random"', '"label":"evolution"'))


def test_costs_at_uniform_widths_add_up_to_those_of_the_table(images):
    job = Job(LENET, "npu-148", Splits.read(images))
    _, narrow = job.uniform_costs((8, 4)).columns.values()
    total = float(job.table.cost([job.constraints.uniform(4)])[0])
    assert sum(cost.cycles for cost in narrow) == pytest.approx(total)
