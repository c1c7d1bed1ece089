"""What can go wrong on the way, as the user hears it."""

from __future__ import annotations

from plugin.job import Kind


class Failure(Exception, Kind):
    """An edit, or one of its variations, that ends without a result.

    `kind` is one of the words of Kind, for programs; the message is for people: what happened, and
    what to do. `heard` is what arrived of an answer that may have been paid for.
    """

    def __init__(self, kind: str, message: str, heard: bytes = b"") -> None:
        super().__init__(message)
        self.kind = kind
        self.heard = heard


class NotAccepted(Failure):
    """A POST that the service surely did not take, and that may be sent again by itself.

    `wait` is how many seconds the service asked for, 0 if it did not say.
    """

    def __init__(self, kind: str, message: str, wait: float = 0) -> None:
        super().__init__(kind, message)
        self.wait = wait


class TaskEnded(Failure):
    """A task that is over and has no result: there is nothing to be asked for any more."""


class TaskUnknown(TaskEnded):
    """A task that the service doesn't know: not any more, or for its first seconds not yet."""
