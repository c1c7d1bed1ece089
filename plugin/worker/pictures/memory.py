"""Limit how much memory pictures take, and recognise a lack of memory."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

import cv2


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an exception means that there was not enough memory."""
    return isinstance(error, MemoryError) or (
        isinstance(error, cv2.error) and error.code == cv2.Error.StsNoMem
    )


class Room:
    """Limits how many pixels are processed at once by all threads together.

    A picture with more pixels than the limit is processed alone.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._taken = 0
        self._freed = threading.Condition()

    @contextlib.contextmanager
    def taken(self, count: int) -> Iterator[None]:
        """Reserve `count` pixels for the duration of a `with` block.

        Before the block begins, wait until other threads have released enough pixels.
        """
        with self._freed:
            self._freed.wait_for(lambda: not self._taken or self._taken + count <= self._most)
            self._taken += count
        try:
            yield
        finally:
            with self._freed:
                self._taken -= count
                self._freed.notify_all()
