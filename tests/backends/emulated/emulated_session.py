"""Runs networks in ONNX Runtime, on an emulated CPU when started under one: `python emulated_session.py FOLDER`.

FOLDER holds, for each case, NAME.onnx, NAME.npz with the feeds and NAME.json with entries of the session's
configuration; NAME.out.npz receives the outputs.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime


def main(folder: Path) -> None:
    for path in sorted(folder.glob("*.onnx")):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 4
        for key, value in json.loads(path.with_suffix(".json").read_text()).items():
            options.add_session_config_entry(key, value)
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        names = [output.name for output in session.get_outputs()]
        with np.load(path.with_suffix(".npz")) as feeds:
            found = session.run(names, dict(feeds))
        np.savez(path.with_suffix(".out.npz"), **dict(zip(names, found, strict=True)))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
