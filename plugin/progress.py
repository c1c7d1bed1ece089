"""The progress of a job. The worker reports it to the plug-in as lines of JSON."""

from __future__ import annotations

import enum
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from plugin.translation import _


class Phase(str, enum.Enum):
    """The phases of the worker's work on a variation, in the order of time."""

    PREPARING = "preparing"
    UPLOADING = "uploading"
    WAITING = "waiting"
    DOWNLOADING = "downloading"
    FITTING = "fitting"

    __str__ = str.__str__

    @property
    def text(self) -> str:
        """The phase in the user's language."""
        return {
            Phase.PREPARING: _("Preparing the picture"),
            Phase.UPLOADING: _("Sending the picture"),
            Phase.WAITING: _("Waiting for the service"),
            Phase.DOWNLOADING: _("Fetching the result"),
            Phase.FITTING: _("Fitting the result"),
        }[self]


@dataclass(frozen=True)
class Progress:
    """A report that a phase begins or continues.

    `variation` is the number of the variation, counted from 1, or None for the preparation, which
    all variations share.

    During an upload, the worker reports repeatedly how many bytes of the variation were `sent`, and
    how many there are in `total`. While the worker waits for a task, it reports after each query,
    with the `percent` of the work that is done if the service tells.

    `note` is a message for the user, or "". If a variation must wait before it can be sent, or sent
    again, the phase is PREPARING, and the note says why.
    """

    phase: Phase
    variation: int | None = None
    sent: int = 0
    total: int = 0
    percent: int | None = None
    note: str = ""

    def to_line(self) -> str:
        """Return the report as a line of JSON, without the fields that are 0, empty or None."""
        return json.dumps({name: value for name, value in vars(self).items() if value})

    @staticmethod
    def from_line(line: bytes) -> Progress | None:
        """Return the report that `to_line` turned into `line`, or None if `line` is no report."""
        try:
            saved: Any = json.loads(line)
            return Progress(**{**saved, "phase": Phase(saved["phase"])})
        except (KeyError, TypeError, ValueError, RecursionError):
            return None


Report = Callable[[Progress], None]
"""A function that receives the progress of a job. The worker calls it from several threads."""
