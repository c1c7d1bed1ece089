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
    ANSWER = "answer"
    """It was made, and the answer can't be used or fetched."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind
