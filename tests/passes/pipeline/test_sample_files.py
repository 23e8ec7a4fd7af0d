"""Files of samples: what is no such file, or holds no samples, is named in qir's words."""

import numpy as np
import pytest

from qir.errors import DataError, PassError
from qir.graph import Graph
from qir.module import Module
from qir.passes import Pass, PassContext, PassManager
from qir.passes.data.kinds.array_files import read_arrays
from qir.passes.data.samples import batches
from qir.search.evaluation.accuracy import ArraySamples, refuse_shared_images
from qir.types import DType, tensor_type

IMAGES = np.zeros((4, 1, 2, 2), np.float32)


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04 truncated", b"\x93NUMPY"])
@pytest.mark.parametrize("name", ["x.npy", "x.npz"])
def test_what_is_not_a_file_of_arrays_is_refused(tmp_path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=r"not a .npy or .npz file of numbers.*numpy.save"):
        read_arrays(tmp_path / name)


def test_python_objects_are_refused(tmp_path) -> None:
    np.savez(tmp_path / "x.npz", images=np.array([{}, 2], object))
    with pytest.raises(DataError, match="numbers"):
        read_arrays(tmp_path / "x.npz")


def test_a_missing_file_is_named(tmp_path) -> None:
    with pytest.raises(DataError, match=r"absent.npz: cannot be read: No such file"):
        read_arrays(tmp_path / "absent.npz")


def test_splits_that_share_an_image_are_refused() -> None:
    numbers = np.arange(6, dtype=np.float32).reshape(6, 1, 1, 1)
    first, second = (
        ArraySamples(numbers[part], np.zeros(3, np.int64), "retraining") for part in (slice(3), slice(3, 6))
    )
    refuse_shared_images(first, second)
    with pytest.raises(DataError, match=r"1 of the 3 images of retraining .* number 2"):
        refuse_shared_images(first, ArraySamples(numbers[[4, 5, 0]], np.zeros(3, np.int64), "retraining"))


class ReadData(Pass):
    name = "read-data"

    def run(self, module: Module, context: PassContext) -> bool:
        return not list(batches(module, context.require("calibration_data")))


def test_bad_data_are_a_finding_and_no_failure_of_the_pass(tmp_path) -> None:
    graph = Graph()
    graph.set_outputs([graph.add_input("x", tensor_type(DType.FLOAT32, (1, 4)))])
    manager = PassManager([ReadData()], reproducers=tmp_path)
    with pytest.raises(DataError, match=r"^pass read-data: absent.npy: cannot be read: No such file") as caught:
        manager.run(Module(graph), PassContext(calibration_data="absent.npy"))
    assert isinstance(caught.value, PassError)
    assert not list(tmp_path.iterdir())
