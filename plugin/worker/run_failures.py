"""Messages that say what went wrong in a run, and whether the user was possibly charged."""

from __future__ import annotations

import sys
import traceback

from plugin.errors import Failure, Kind
from plugin.job import Job, Post, Status
from plugin.translation import _
from plugin.worker.pictures import memory
from plugin.worker.service import patience


def described(error: BaseException) -> str:
    """Return a description of `error`: the operating system's text, or the name of its type.

    The message of the exception is left out, because messages of libraries sometimes quote links
    and keys.
    """
    told = error.strerror if isinstance(error, OSError) else None
    return told or type(error).__name__


def log(error: BaseException) -> None:
    """Write the traceback of `error` and of its causes to standard error."""
    cause: BaseException | None = error
    while cause:
        where = "".join(traceback.format_tb(cause.__traceback__))
        print(f"{described(cause)}\n{where}", file=sys.stderr, end="")
        cause = cause.__cause__ or cause.__context__


def no_lock(job: Job, error: OSError, is_unsent: bool) -> Failure:
    """Return the Failure for a job that is not sent, because its disk can't lock files.

    `is_unsent` says that no variation of the job was sent before, except for those that the service
    refused at no cost.
    """
    if not is_unsent:
        return Failure(
            Kind.SETUP,
            _(
                "The disk with {folder} can't lock files ({why}), so Dimilinks can't continue this "
                "edit safely. Turn on file locks for the disk, then choose Try Again (edit number "
                "{job})."
            ).format(folder=job.folder, why=error.strerror, job=job.id),
        )
    return Failure(
        Kind.SETUP,
        _(
            "The disk with {folder} can't lock files ({why}), so Dimilinks can't make sure "
            "that the edit is sent only once. Nothing was sent, so nothing was charged. Set "
            "DIMILINKS_HOME to a folder on a disk of this computer, and start a new edit. Or "
            "turn on file locks for the disk, then choose Try Again (edit number {job})."
        ).format(folder=job.folder, why=error.strerror, job=job.id),
    )


def lost_track() -> Failure:
    """Return the Failure for an edit that an earlier run sent, but that got no answer."""
    return Failure(
        Kind.OUTCOME_UNKNOWN,
        _(
            "The edit was sent earlier, but no answer came. You may have been charged, so the "
            "edit is not sent again. Check your account with the service before you start a "
            "new edit."
        ),
    )


def again(kind: Kind, wait: float) -> str:
    """Return the message that a variation will be sent, or sent again, in `wait` seconds.

    `kind` is the kind of the failure that caused the wait.
    """
    sentence = (
        _("The service is busy. The edit will be sent in {seconds} s.")
        if kind == Kind.BUSY
        else _("The service can't be reached yet. Trying again in {seconds} s.")
    )
    return sentence.format(seconds=max(1, round(wait)))


def not_ready(job: Job, trouble: str) -> Failure:
    """Return the Failure for a task that has no result yet when the waiting time is over.

    `trouble` says why the service could not be asked, or is "" if the service answered.
    """
    sentence = (
        _(
            "The service accepted the edit, but Dimilinks can't ask for the result ({why}). Choose "
            "Try Again later, at no cost (edit number {job})."
        ).format(why=trouble, job=job.id)
        if trouble
        else _(
            "The service accepted the edit, but the result is not ready after {minutes} minutes. "
            "Choose Try Again later, at no cost (edit number {job})."
        ).format(minutes=round(patience.POLLING / 60), job=job.id)
    )
    return Failure(Kind.PENDING, sentence)


def not_kept(job: Job, error: OSError) -> Failure:
    """Return the Failure for a job that was not sent, because its state can't be written."""
    return Failure(
        Kind.SETUP,
        _(
            "The edit can't be saved in {folder} ({why}), so nothing was sent and nothing was "
            "charged. Make the folder writable, then try again."
        ).format(folder=job.folder, why=described(error)),
    )


def not_fitted(job: Job, error: Exception) -> Failure:
    """Return the Failure for a result that arrived, but that this machine can't fit."""
    sentence = (
        _(
            "The result has arrived, but this computer does not have enough memory to process it. "
            "Close other programs, then choose Try Again, at no cost (edit number {job})."
        )
        if memory.is_out_of_memory(error)
        else _(
            "The result has arrived, but Dimilinks could not prepare it for the image ({why}). "
            "Choose Try Again, at no cost (edit number {job}). If this does not help, a part of "
            "Dimilinks may be missing: install Dimilinks again, then choose Try Again."
        )
    )
    return Failure(Kind.SETUP, sentence.format(job=job.id, why=described(error)))


def unforeseen(job: Job, post: Post, error: Exception, is_kept: bool) -> Failure:
    """Return the Failure for an unexpected error. It says whether the user may have been charged.

    `is_kept` says whether a result from the service is on the disk.
    """
    why = described(error)
    if post.state == Status.PREPARED:
        sentence = _(
            "An unexpected error occurred ({why}). Nothing was sent, so nothing was "
            "charged. Try again, and report the error if it happens again."
        )
        return Failure(Kind.SETUP, sentence.format(why=why))
    if is_kept:
        sentence = _(
            "An unexpected error occurred ({why}). What the service sent is kept in {folder}. "
            "Choose Try Again to read it once more, at no cost (edit number {job})."
        )
        kind = Kind.PENDING if post.result else Kind.OUTCOME_UNKNOWN
    else:
        sentence = _(
            "An unexpected error occurred after the edit was sent: {why}. You may have been "
            "charged, so the edit is not sent again. Check your account with the service before "
            "you start a new edit."
        )
        kind = Kind.OUTCOME_UNKNOWN
    return Failure(kind, sentence.format(why=why, folder=job.folder, job=job.id))
