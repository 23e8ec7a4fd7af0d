"""Small networks and folders of samples, written where they are used."""

import wave

import numpy as np
import pytest

from qir.graph import Graph
from qir.module import Module
from qir.types import DType, TensorType


@pytest.fixture
def takes():
    """Make a network with these inputs, name → shape or (shape, element type), each handed on as an output."""

    def made(**inputs):
        graph = Graph("g")
        values = []
        for name, kind in inputs.items():
            shape, dtype = kind if len(kind) == 2 and isinstance(kind[1], DType) else (kind, DType.FLOAT32)
            values.append(graph.add_input(name, TensorType(dtype, shape)))
        graph.set_outputs(values)
        return Module(graph)

    return made


@pytest.fixture
def write_image():
    """Write pixels uint8 [height, width, channels] or [height, width] as an image."""
    image = pytest.importorskip("PIL.Image")

    def write(path, pixels):
        path.parent.mkdir(parents=True, exist_ok=True)
        image.fromarray(np.asarray(pixels, np.uint8)).save(path)

    return write


@pytest.fixture
def write_sound():
    """Write integers [time, channels] as a WAV file of so many bytes a number."""

    def write(path, numbers, *, rate=16000, width=2):
        path.parent.mkdir(parents=True, exist_ok=True)
        values = np.asarray(numbers)
        data = values.astype(f"<{'u' if width == 1 else 'i'}{width}").tobytes()
        with wave.open(str(path), "wb") as file:
            file.setnchannels(values.shape[1])
            file.setsampwidth(width)
            file.setframerate(rate)
            file.writeframes(data)

    return write
