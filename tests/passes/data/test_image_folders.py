"""Folders of images: pixels, sizes, layouts, classes, and where size, mean and std come from."""

import json

import numpy as np
import pytest

from qir.errors import DataError
from qir.passes.data.kinds.preprocessing import Preprocessing, read_preprocessing
from qir.passes.data.reading import read_samples
from qir.passes.data.samples import batches
from qir.types import DType

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 4, 5, 3), np.uint8)


@pytest.fixture
def folder(tmp_path, write_image):
    for number, pixels in enumerate(PIXELS):
        write_image(tmp_path / "images" / f"{number}.png", pixels)
    return tmp_path / "images"


@pytest.fixture
def classes(tmp_path, write_image):
    for number, name in enumerate(("ape", "bee", "cow")):
        for image in range(4):
            write_image(tmp_path / "classes" / name / f"{image}.png", np.full((4, 4, 3), 20 * number + image))
    return tmp_path / "classes"


def test_pixels_become_numbers_from_0_to_1_in_the_layout_of_the_input(takes, folder):
    expected = PIXELS.astype(np.float64) / 255
    (found,) = batches(takes(x=("N", 3, 4, 5)), folder)
    np.testing.assert_allclose(found["x"], expected.transpose(0, 3, 1, 2), atol=1e-7)
    (found,) = batches(takes(x=("N", 4, 5, 3)), str(folder))
    np.testing.assert_allclose(found["x"], expected, atol=1e-7)


def test_bytes_stay_bytes(takes, folder):
    (found,) = batches(takes(x=(("N", 4, 5, 3), DType.UINT8)), folder)
    np.testing.assert_array_equal(found["x"], PIXELS)


def test_mean_and_std_are_those_of_the_channels(takes, folder):
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    module = takes(x=("N", 3, 4, 5))
    expected = ((PIXELS / 255 - mean) / std).transpose(0, 3, 1, 2)
    np.testing.assert_allclose(
        read_samples(folder, module, preprocessing=Preprocessing(mean=mean, std=std)).images, expected, atol=1e-5
    )
    in_pixels = Preprocessing(mean=tuple(255 * m for m in mean), std=tuple(255 * s for s in std), bgr=True)
    expected = ((PIXELS[..., ::-1] / 255 - mean) / std).transpose(0, 3, 1, 2)
    np.testing.assert_allclose(read_samples(folder, module, preprocessing=in_pixels).images, expected, atol=1e-5)


def test_images_are_resized_by_their_shorter_edge_and_cut_from_the_centre(takes, tmp_path, write_image):
    halves = np.zeros((8, 24, 3), np.uint8)
    halves[:, 8:16] = 200
    write_image(tmp_path / "d" / "wide.png", halves)
    np.testing.assert_allclose(read_samples(tmp_path / "d", takes(x=(1, 3, 8, 8))).images, 200 / 255, atol=1e-6)
    stretched = read_samples(tmp_path / "d", takes(x=(1, 3, 8, 8)), preprocessing=Preprocessing(stretch=True)).images
    assert stretched[0, 0, 0, 0] == 0


def test_grey_networks_get_grey_images_and_networks_without_an_axis_of_samples_get_one(takes, folder):
    assert read_samples(folder, takes(x=("N", 1, 4, 5))).images.shape == (6, 1, 4, 5)
    assert read_samples(folder, takes(x=("N", 4, 5))).images.shape == (6, 4, 5)
    assert [feed["x"].shape for feed in batches(takes(x=(3, 4, 5)), folder)] == [(3, 4, 5)] * 6


def test_folders_are_classes_and_any_first_part_holds_all_of_them(takes, classes):
    found = read_samples(classes, takes(x=("N", 3, 4, 4)), labelled=True)
    np.testing.assert_array_equal(found.labels, [0, 1, 2] * 4)
    np.testing.assert_array_equal((found.images[:, 0, 0, 0] * 255 / 20).astype(int), found.labels)
    assert found.classes == ("ape", "bee", "cow")
    assert "3 classes, labels 0 to 2 (ape, bee, cow)" in found.understood.line
    assert len(read_samples(classes, takes(x=("N", 3, 4, 4)), most=3)) == 3


def test_labels_are_the_numbers_of_folders_or_the_lines_of_a_list(takes, classes):
    (classes / "classes.txt").write_text("dog\ncow\nbee\nape\n")
    found = read_samples(classes, takes(x=("N", 3, 4, 4)))
    np.testing.assert_array_equal(found.labels[:3], [3, 2, 1])
    for number, name in ((10, "ape"), (9, "bee"), (2, "cow")):
        (classes / name).rename(classes / str(number))
    np.testing.assert_array_equal(sorted(set(read_samples(classes, takes(x=("N", 3, 4, 4))).labels)), [2, 9, 10])


def test_preprocessing_next_to_the_network_or_in_the_folder_is_found(takes, folder, tmp_path):
    own = {"size": [4, 4], "mean": [0.5], "std": [0.25]}
    (tmp_path / "preprocessing.json").write_text(json.dumps(own))
    module = takes(x=("N", 3, "h", "w"))
    found = read_samples(folder, module, network=tmp_path / "net.onnx")
    assert found.images.shape == (6, 3, 4, 4)
    assert found.images.min() >= -2
    assert "(from preprocessing.json)" in found.understood.line
    options = Preprocessing(size=(2, 2))
    assert read_samples(folder, module, network=tmp_path / "n.onnx", preprocessing=options).images.shape == (6, 3, 2, 2)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (  # google/vit-base-patch16-224
            {"do_normalize": True, "do_resize": True, "image_mean": [0.5] * 3, "image_std": [0.5] * 3, "resample": 2,
             "size": 224},
            Preprocessing(size=(224, 224), range=(0, 1), mean=(0.5,) * 3, std=(0.5,) * 3),
        ),
        (  # openai/clip-vit-base-patch32
            {"crop_size": 224, "do_center_crop": True, "do_normalize": True, "do_resize": True, "size": 224,
             "image_mean": [0.48145466, 0.4578275, 0.40821073], "image_std": [0.26862954, 0.26130258, 0.27577711],
             "resample": 3},
            Preprocessing(size=(224, 224), resize=224, range=(0, 1), mean=(0.48145466, 0.4578275, 0.40821073),
                          std=(0.26862954, 0.26130258, 0.27577711), filter=3),
        ),
        (  # microsoft/resnet-50, written by newer versions
            {"do_normalize": True, "do_rescale": True, "do_resize": True, "rescale_factor": 0.00392156862745098,
             "image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225],
             "size": {"height": 224, "width": 256}},
            Preprocessing(size=(224, 256), stretch=True, range=(0, 1), mean=(0.485, 0.456, 0.406),
                          std=(0.229, 0.224, 0.225)),
        ),
        ({"do_rescale": False, "do_normalize": False, "do_resize": False}, Preprocessing(range=(0, 255))),
    ],
    ids=["size", "crop", "height and width", "nothing"],
)  # fmt: skip
def test_files_of_hugging_face_are_read(tmp_path, given, expected):
    path = tmp_path / "preprocessor_config.json"
    path.write_text(json.dumps(given))
    found = read_preprocessing(path)
    for name in ("size", "resize", "range", "mean", "std", "filter"):
        assert getattr(found, name) == pytest.approx(getattr(expected, name)), name


@pytest.mark.parametrize(
    "text", ["", "[1]", '{"size": "a"}', '{"std": [0]}', '{"layout": "CHWN"}', '{"zoom": 2}', '{"mean": ["a"]}']
)
def test_preprocessing_that_is_none_is_named(tmp_path, text):
    (tmp_path / "preprocessing.json").write_text(text)
    with pytest.raises(DataError):
        read_preprocessing(tmp_path / "preprocessing.json")


def test_what_no_folder_of_samples_can_be_is_named(takes, tmp_path, folder, write_image):
    module = takes(x=("N", 3, 4, 4))
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"empty: holds no files that end in .*jpg"):
        read_samples(tmp_path / "empty", module)
    (folder / "4.png").write_bytes(b"\x89PNG nothing")
    with pytest.raises(DataError, match=r"4\.png: cannot be read as an image"):
        read_samples(folder, module).images  # noqa: B018
    write_image(tmp_path / "deep" / "train" / "ape" / "1.png", PIXELS[0])
    with pytest.raises(DataError, match=r"folders of folders, give one of train"):
        read_samples(tmp_path / "deep", module)
    write_image(folder / "ape" / "1.png", PIXELS[0])
    with pytest.raises(DataError, match="one folder a class"):
        read_samples(folder, module)
    with pytest.raises(DataError, match="takes state too"):
        read_samples(folder, takes(x=("N", 3, 4, 4), state=("N", 4)))
    with pytest.raises(DataError, match=r"images fit inputs of three or four axes"):
        read_samples(tmp_path / "deep" / "train", takes(x=("N", 48)))


def test_several_sizes_want_a_size(takes, tmp_path, write_image):
    write_image(tmp_path / "d" / "a.png", PIXELS[0])
    write_image(tmp_path / "d" / "b.png", PIXELS[0, :3])
    with pytest.raises(DataError, match="--size"):
        read_samples(tmp_path / "d", takes(x=("N", 3, "h", "w")))
