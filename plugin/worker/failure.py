"""The exceptions of the worker, with messages for the user."""

from __future__ import annotations

from plugin.job import Kind


class Failure(Exception, Kind):
    """An edit, or one of its variations, has ended without a result.

    `kind` is one of the constants of Kind. The message is for the user: it says what happened, and
    what to do. `heard` holds the bytes that arrived of an answer that may have been paid for.
    """

    def __init__(self, kind: str, message: str, heard: bytes = b"") -> None:
        super().__init__(message)
        self.kind = kind
        self.heard = heard


class NotAccepted(Failure):
    """A POST was not sent, or the service certainly did not accept it. It may be sent again.

    `wait` is the number of seconds that the service asked for, or 0 if it gave none.
    """

    def __init__(self, kind: str, message: str, wait: float = 0) -> None:
        super().__init__(kind, message)
        self.wait = wait


class TaskEnded(Failure):
    """A task has ended without a result, so there is no point in asking for it again."""


class TaskUnknown(TaskEnded):
    """A task is unknown to the service.

    The service may have deleted it. A task that was just named may also be unknown for the first
    few seconds.
    """
