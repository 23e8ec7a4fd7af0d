"""The zoo's list, its table, and a part of it taken through every stage."""

import json
import sys

import pytest

KINDS = {"cnn", "rnn", "transformer", "graph", "mlp"}
FEATURES = {"fp16", "int8", "control flow", "external data"}


@pytest.fixture
def zoo(script, monkeypatch, repository):
    monkeypatch.setattr(sys, "path", [str(repository / "benchmarks"), *sys.path])
    return script("benchmarks/zoo.py")


@pytest.fixture
def repository(request):
    return request.config.rootpath


def test_the_list_has_forty_networks_of_all_kinds_and_at_most_a_third_of_convolutions(zoo):
    networks = zoo.networks().values()
    assert len(networks) >= 40
    assert len({network.sha256 for network in networks}) == len(networks)
    assert {network.kind for network in networks} == KINDS
    assert {feature for network in networks for feature in network.features} >= FEATURES
    assert 3 * sum(network.kind == "cnn" for network in networks) <= len(networks)


def test_packages_are_named_with_their_version_and_no_host(zoo):
    for network in zoo.networks().values():
        registry, requirement = network.package.split(":", 1)
        assert registry in {"pypi", "npm"}
        assert ("==" if registry == "pypi" else "@") in requirement[1:]
        assert "//" not in requirement


def test_the_table_tells_agreement_bits_and_why_a_stage_has_none(zoo):
    stages = {name: {"state": "ok", "seconds": 2.5} for name in zoo.Way.STAGES}
    done = {
        "stages": stages,
        "peak": 400,
        "ended": "",
        "agreement": {"int8": {"sqnr": 40.0, "decisions": 0.995}, "mixed": {"sqnr": 21.25}},
        "bits": {"mixed": {"8": 3, "4": 7}},
        "left_float": {"no kernel": 2},
    }
    refused = {"stages": {"mixed": {"state": "refused", "reason": "no\n  policy"}}, "peak": 10, "ended": ""}
    stopped = {"stages": {"int8": {"state": "stopped"}}, "peak": 5000, "ended": "more than 4,096 MiB"}
    results = {"alexa": done, "magika": refused, "minilm": stopped}

    rows = zoo.table(results)[2:]

    assert rows[0] == "| alexa | mlp | 15 | 400 | 99.5 %, 40.0 dB | 21.2 dB | 7x4 3x8 | 2: no kernel |"
    assert "| refused |" in rows[1]
    assert "more than 4,096 MiB" in rows[2]
    assert zoo.reasons(results) == ["magika, mixed: refused: no policy", "minilm: ended: more than 4,096 MiB"]
    assert zoo.finished(results) == 1


def test_the_document_shows_the_stored_results(zoo):
    text = zoo.DOCUMENT.read_text("utf-8")
    assert zoo.documented(json.loads(zoo.MEASURED.read_text("utf-8")), text) == text


@pytest.mark.slow
@pytest.mark.parametrize("name", ["boosting-surrogate", "attacut", "minilm", "silero-vad-6", "chinese-lexer"])
def test_a_network_of_the_zoo_goes_from_its_file_to_verified_mixed_bits(zoo, name, tmp_path):
    found = zoo.run(zoo.networks()[name], tmp_path)
    assert {stage: how["state"] for stage, how in found["stages"].items()} == dict.fromkeys(zoo.Way.STAGES, "ok")
    assert found["peak"] < zoo.MEMORY
    assert len(found["bits"]["mixed"]) > 1
