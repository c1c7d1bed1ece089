"""The errors whose messages are for the user.

Any module can raise these errors. Three places catch them and show the messages: the procedures
(`gimp/procedures`), the windows (`gimp/ui`) and the command line (`worker/cli`).
"""

from __future__ import annotations

import enum

from plugin.translation import _


class UserError(Exception):
    """An action of the user is not possible. The message gives the reason and says what to do."""


class CallingError(UserError):
    """A procedure of the plug-in was called with invalid arguments."""


class WorkerBroken(UserError):
    """The worker can't run. The window offers to repair the worker's environment."""


class NotReplaceable(UserError):
    """The result can't replace the pixels of the edited layer, but it can become a new layer."""


class Unusable(UserError, OSError):
    """The data folder, the settings file or one of the settings can't be used.

    This class is also an OSError: callers that can do without the settings catch OSError, and
    treat unusable settings like any other error of the disk.
    """


class Kind(str, enum.Enum):
    """The kinds of failure of an edit, by which programs decide what to do next."""

    SETUP = "setup"
    """The cause is on this machine, and must be fixed: the key, the address, a file of the job."""
    UNREACHABLE = "unreachable"
    """The service could not be reached, so it has received no complete request."""
    REFUSED = "refused"
    """The service refused the edit and gave the reason. It made no picture."""
    BUSY = "busy"
    """The service is busy and asked to try again later."""
    OUTCOME_UNKNOWN = "outcome unknown"
    """The edit was sent and no usable answer came. The service has possibly billed the edit."""
    PENDING = "pending"
    """The service accepted the edit, or the job folder holds the result. Resuming is free."""
    ANSWER = "answer"
    """The service made the edit, but the answer can't be fetched or has no usable picture."""

    __str__ = str.__str__


class Failure(UserError):
    """An edit, or one of its variations, has ended without a result.

    `heard` holds the bytes of the answer that have arrived, if the answer has possibly been paid
    for.
    """

    def __init__(self, kind: Kind, message: str, heard: bytes = b"") -> None:
        super().__init__(message)
        self.kind = kind
        self.heard = heard


class NotAccepted(Failure):
    """A POST, the request that starts an edit, can be sent again without being charged twice.

    The POST was not sent, or the service certainly did not accept it. `wait` is the number of
    seconds that the service asks to wait before the next attempt, or 0 if the service gave none.
    """

    def __init__(self, kind: Kind, message: str, wait: float = 0) -> None:
        super().__init__(kind, message)
        self.wait = wait


class TaskEnded(Failure):
    """A task, the service's work on an edit, has ended without a result. Don't ask for it again."""


class TaskUnknown(TaskEnded):
    """The service does not know a task.

    Either the service has deleted the task, or it named the task only a few seconds ago and does
    not find it yet.
    """


def unforeseen(error: Exception) -> str:
    """Return the message for an unexpected exception, and print its traceback to standard error."""
    # These imports are here because `traceback` is rarely needed and `storage` imports this module.
    import traceback

    from plugin import storage

    traceback.print_exception(error)
    try:
        folder = storage.home() / "jobs"
    except Unusable as unusable:
        # The unusable data folder is the cause of the failure, so it can't contain any results.
        return str(unusable)
    return _(
        "An unexpected error occurred ({why}). Results that have arrived are kept in "
        "{folder}. Choose Filters ▸ Dimilinks ▸ Recover Results… to put them into the image."
    ).format(why=error or type(error).__name__, folder=folder)
