"""A service that takes no time for edits that it has made before, for measurements."""

from __future__ import annotations

import threading
import time
from email.message import Message
from typing import Any

from plugin.worker.sandbox import Sandbox
from plugin.worker.sandbox.misbehaviour import PRESETS


class InstantService(Sandbox):
    """A sandbox that repeats its answers. It drifts a little, as models do.

    A request that is as long as an earlier one gets the same answer, after `thinking` seconds.
    `arrived` has the time (in seconds since 1970) and the length in bytes of each request.
    `most_at_once` is the largest number of requests that were answered at the same time.
    """

    def __init__(self, thinking: float = 0.0) -> None:
        super().__init__(misbehaviour=PRESETS["drifting"])
        self.arrived: list[tuple[float, int]] = []
        self.most_at_once = 0
        self._seconds = thinking
        self._at_once = 0
        self._made: dict[int, dict[str, Any]] = {}
        self._counting = threading.Lock()

    def edit(self, key: str, body: bytes, headers: Message) -> dict[str, Any]:
        with self._counting:
            self.arrived.append((time.time(), len(body)))
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
        try:
            if len(body) not in self._made:
                self._made[len(body)] = super().edit(key, body, headers)
            time.sleep(self._seconds)
            return self._made[len(body)]
        finally:
            with self._counting:
                self._at_once -= 1
