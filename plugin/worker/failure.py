"""What can go wrong on the way, as the user hears it."""

from __future__ import annotations


class Failure(Exception):
    """An edit, or one of its variations, that ends without a result.

    `kind` is one of the words below, for programs; the message is for people: what happened, and
    what to do.
    """

    SETUP = "setup"
    """Nothing was sent: the key, the address, a file of the job."""
    UNREACHABLE = "unreachable"
    """Nothing was sent: no connection came about."""
    REFUSED = "refused"
    """The service said no, and why; nothing was made."""
    BUSY = "busy"
    """The service asked to come back later."""
    OUTCOME_UNKNOWN = "outcome unknown"
    """It was sent and no answer came: it may have been made and billed."""
    PENDING = "pending"
    """The service took it and may still finish it: it can be asked for, at no cost."""
    ANSWER = "answer"
    """It was made, and the answer can't be used or fetched."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


class NotAccepted(Failure):
    """A POST that the service surely did not take, and that may be sent again by itself.

    `wait` is how many seconds the service asked for, 0 if it did not say.
    """

    def __init__(self, kind: str, message: str, wait: float = 0) -> None:
        super().__init__(kind, message)
        self.wait = wait


class TaskEnded(Failure):
    """A task that is over and has no result: there is nothing to be asked for any more."""
