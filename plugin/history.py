"""The history of edits: list the job folders, and remove those that are not needed any more.

A process holds the lock of a job while it removes the job's folder. Jobs that this version can't
read are not removed. Results that were paid for are never removed because of their age: see
`Job.must_stay`.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil

from plugin import lock
from plugin.errors import UserError
from plugin.job import DAY, MAKER, Job, jobs_folder
from plugin.translation import _

_HIDDEN = re.compile(r"\.[0-9]{8}-[0-9]{6}-[0-9a-f]+")
"""The hidden names of job folders that are being filled or removed.

Dimilinks did not create any other hidden folder, and does not remove it.
"""


def all_jobs() -> list[Job]:
    """Return all complete jobs, oldest first. Raises OSError."""
    folders = (f for f in jobs_folder().iterdir() if (f / "request.json").exists())
    return [Job(f) for f in sorted(folders) if not f.name.startswith(".")]


def find(job_id: str) -> Job:
    """Return the job with the id `job_id`.

    Raises OSError, and UserError if there is no such job.
    """
    for job in all_jobs():
        if job.id == job_id:
            return job
    raise UserError(
        _("There is no job {job}. To see all jobs, run “python -m plugin jobs”.").format(job=job_id)
    )


def total_bytes() -> int:
    """Return the size of all jobs on the disk, in bytes. Raises OSError."""
    total = 0
    for file in jobs_folder().rglob("*"):
        # The file is gone if a worker replaces it at this moment.
        with contextlib.suppress(FileNotFoundError):
            total += file.lstat().st_size
    return total


def prune(days: int, now: float) -> None:
    """Remove the jobs that have not changed for more than `days` days, except those that must stay.

    If `days` is 0, no job is removed. A job stays, too, while the process that created it still
    runs, because a window of that process possibly shows the job. Folders that killed processes
    left half filled or half removed are removed in any case. `now` is in seconds since 1970. Raises
    OSError.
    """
    _remove_left(now)
    for old in all_jobs() if days > 0 else []:
        # Skip a job that is damaged, or that another process is removing.
        with contextlib.suppress(OSError, UserError):
            if old.age(now) > days * DAY and not old.maker_lives():
                _remove(old, now)


def clear(now: float) -> None:
    """Remove all jobs, except those that must stay. Raises OSError.

    `now` is in seconds since 1970.
    """
    _remove_left(now)
    for old in all_jobs():
        with contextlib.suppress(OSError):
            _remove(old, now)


def _remove(old: Job, now: float) -> None:
    """Remove a job, unless it must stay or a worker holds its lock. Raises OSError."""
    if old.folder.is_symlink() or old.must_stay(now):
        return
    with contextlib.ExitStack() as holding:
        ours = holding.enter_context(lock.held(old.folder / "lock"))
        # Check again, in case a worker has changed the job before this process got the lock.
        if not ours or old.must_stay(now):
            return
        if os.name == "nt":
            # Windows does not rename a folder that contains an open file, so close the file of the
            # lock. If a worker takes the lock now, renaming the folder fails, and the job stays.
            holding.close()
        shutil.rmtree(old.put_away(), ignore_errors=True)


def _remove_left(now: float) -> None:
    """Remove the folders that killed processes left half filled or half removed. Raises OSError."""
    for left in jobs_folder().glob(".*"):
        if not _HIDDEN.fullmatch(left.name) or left.is_symlink():
            continue
        with contextlib.suppress(OSError):
            if (left / MAKER).exists():
                over = not Job(left).maker_lives()
            else:
                # Older versions did not write the file `maker`, so judge by the folder's age.
                over = now - left.stat().st_mtime > DAY
            if over:
                shutil.rmtree(left, ignore_errors=True)
