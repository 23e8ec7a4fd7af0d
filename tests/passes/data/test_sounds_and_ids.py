"""Folders of WAV files and lines of ids."""

import numpy as np
import pytest

from qir.errors import DataError
from qir.passes.data.reading import read_samples
from qir.passes.data.samples import batches
from qir.types import DType

IDS = ("N", "tokens"), DType.INT64


@pytest.mark.parametrize(("width", "half"), [(1, 192), (2, 2**14), (4, 2**30)])
def test_sounds_are_numbers_from_minus_1_to_1(takes, tmp_path, write_sound, width, half):
    zero = 128 if width == 1 else 0
    write_sound(tmp_path / "d" / "a.wav", [[half], [zero], [zero]], width=width)
    (feed,) = batches(takes(x=("N", "time")), tmp_path / "d")
    np.testing.assert_array_equal(feed["x"], [[0.5, 0, 0]])


def test_sounds_are_cut_filled_and_mixed_as_the_input_takes_them(takes, tmp_path, write_sound):
    write_sound(tmp_path / "d" / "a.wav", [[2**14, 0]] * 3)
    write_sound(tmp_path / "d" / "b.wav", [[2**14, 2**14]] * 9)
    (feed,) = batches(takes(x=("N", 1, 5)), tmp_path / "d")
    np.testing.assert_array_equal(feed["x"], [[[0.25, 0.25, 0.25, 0, 0]], [[0.5] * 5]])
    found = list(batches(takes(x=("N", 2, "time")), tmp_path / "d"))
    assert [feed["x"].shape for feed in found] == [(1, 2, 3), (1, 2, 9)]
    assert "2 sounds at 16,000 Hz" in read_samples(tmp_path / "d", takes(x=("N", 1, 5))).understood.line


def test_sounds_of_several_rates_and_damaged_ones_are_named(takes, tmp_path, write_sound):
    write_sound(tmp_path / "d" / "a.wav", [[0]])
    write_sound(tmp_path / "d" / "b.wav", [[0]], rate=8000)
    with pytest.raises(DataError, match=r"b\.wav 8000 Hz, a\.wav 16000 Hz: resample"):
        read_samples(tmp_path / "d", takes(x=("N", "time")))
    (tmp_path / "d" / "b.wav").write_bytes(b"RIFF nothing")
    with pytest.raises(DataError, match=r"b\.wav: cannot be read"):
        read_samples(tmp_path / "d", takes(x=("N", "time")))


def test_lines_of_ids_are_samples_with_masks_segments_and_positions(takes, tmp_path):
    (tmp_path / "ids.txt").write_text("5 6 7\n\n8,9,10\n11 12\n")
    module = takes(input_ids=IDS, attention_mask=IDS, token_type_ids=IDS, position_ids=IDS)
    first, second = batches(module, tmp_path / "ids.txt")
    np.testing.assert_array_equal(first["input_ids"], [[5, 6, 7], [8, 9, 10]])
    np.testing.assert_array_equal(first["position_ids"], [[0, 1, 2]] * 2)
    np.testing.assert_array_equal(first["token_type_ids"], np.zeros((2, 3)))
    np.testing.assert_array_equal(second["attention_mask"], [[1, 1]])
    assert "3 lines of 2 to 3 ids" in read_samples(tmp_path / "ids.txt", module).understood.line


def test_short_lines_are_filled_where_the_length_is_fixed_and_the_mask_says_so(takes, tmp_path):
    (tmp_path / "ids.txt").write_text("5 6 7 8\n9\n")
    module = takes(input_ids=(("N", 3), DType.INT32), attention_mask=(("N", 3), DType.INT64))
    (feed,) = batches(module, tmp_path / "ids.txt")
    np.testing.assert_array_equal(feed["input_ids"], [[5, 6, 7], [9, 0, 0]])
    np.testing.assert_array_equal(feed["attention_mask"], [[1, 1, 1], [1, 0, 0]])


def test_an_array_of_ids_brings_its_mask_too(takes, tmp_path):
    np.save(tmp_path / "ids.npy", np.arange(6).reshape(2, 3))
    (feed,) = batches(takes(input_ids=IDS, attention_mask=IDS), tmp_path / "ids.npy")
    np.testing.assert_array_equal(feed["attention_mask"], np.ones((2, 3)))


@pytest.mark.parametrize("text", ["", "1 2 x\n", "1.5\n"])
def test_lines_that_are_not_ids_are_named(takes, tmp_path, text):
    (tmp_path / "ids.txt").write_text(text)
    with pytest.raises(DataError, match=r"ids\.txt"):
        read_samples(tmp_path / "ids.txt", takes(input_ids=IDS))
