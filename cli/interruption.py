"""Ctrl-C and SIGTERM: where they end a command, one line says what is stored and how to go on."""

from __future__ import annotations

import signal
import sys
import threading
from types import FrameType

STORED = "what was measured is in the store: the same command goes on from there"
NOT_STORED = "nothing measured is kept: start again (`--store FILE`, where a command has it, keeps what is measured)"
WHOLE = "files are written whole or not at all"


class Interruption:
    """The signal that was heard while a command ran; 0 until then.

    Ctrl-C is raised as `KeyboardInterrupt`, which a search takes for its end; SIGTERM as `SystemExit`. Libraries may
    turn either into another exception on its way: the number says what the reason was.
    """

    def __init__(self) -> None:
        self.number = 0

    @property
    def exit_code(self) -> int:
        """What a shell expects of a command that a signal ended: 130 or 143."""
        return 128 + self.number

    def listen(self) -> None:
        """Hear signals from now on; threads other than the main one cannot."""
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, self._hear)
            signal.signal(signal.SIGTERM, self._hear)

    def _hear(self, number: int, frame: FrameType | None) -> None:
        del frame
        self.number = number
        if number == signal.SIGTERM:
            raise SystemExit(self.exit_code)
        raise KeyboardInterrupt

    def deafen(self) -> None:
        """Let later signals not disturb the end."""
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            signal.signal(signal.SIGTERM, signal.SIG_IGN)

    def line(self, *, finished: bool) -> str:
        """Return what is stored and how to go on.

        Args:
            finished: the command ended a search and wrote the best that it had found.
        """
        kept = STORED if any(text.split("=")[0] == "--store" for text in sys.argv) else NOT_STORED
        end = "interrupted: the best that was found until then is written" if finished else f"interrupted: {WHOLE}"
        return f"{end}; {kept}"
