"""Write results that were paid for, even if the job folder can't be written to.

If the disk of the job folder is full, read-only or disconnected, a result is first written to
another place, and then to the job folder as soon as possible:

    /var/tmp/dimilinks-gimp-1000/20261122-133005-7f3a/result-1.png

The other place follows from the id of the job. The result is therefore found there when the job is
resumed, even if nothing could be recorded in the job. The folders and files are private to the
user.
"""

from __future__ import annotations

import contextlib
import errno
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from plugin import settings
from plugin.job import Job
from plugin.words import _
from plugin.worker import patience, picture
from plugin.worker.failure import Failure

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Keeper:
    """Writes the results of one job.

    `report` is called with the number of a variation, its phase, and a message for the user.
    """

    def __init__(self, job: Job, report: Callable[[int, str, str], None]) -> None:
        self._job = job
        self._report = report

    def write(self, number: int, phase: str, write: Callable[[], None]) -> None:
        """Call `write`, and repeat it for a while if it raises OSError.

        The first failure is reported to the user. After patience.ROOM seconds on a full disk, or
        patience.WRITING seconds otherwise, the last OSError is raised.
        """
        began = time.monotonic()
        told = False
        while True:
            try:
                write()
                return
            except OSError as error:
                enough = patience.ROOM if error.errno in _FULL else patience.WRITING
                if time.monotonic() > began + enough:
                    raise
                if not told:
                    self._report(number, phase, self._trying(number, error))
                    told = True
            time.sleep(patience.LOOKS)

    def write_result(self, number: int, name: str, data: bytes) -> None:
        """Write a result to the job folder.

        If this fails, write it to another place as well, until it is in the job folder. Raises
        OSError if it still isn't there after repeated attempts; the copy is kept then.
        """

        def write() -> None:
            settings.write_private(self._job.folder / name, data)

        try:
            write()
            return
        except OSError:
            # From here on, the result is kept even if this process ends.
            spare = _write_elsewhere(self._job.id, name, data)
        self.write(number, "downloading", write)
        if spare:
            _forget(spare)

    def bring_home(self, number: int, name: str) -> None:
        """Move a result that was written to another place into the job folder. Raises OSError."""
        if spare := self.elsewhere(name):
            data = spare.read_bytes()

            def write() -> None:
                settings.write_private(self._job.folder / name, data)

            self.write(number, "placing", write)
            _forget(spare)

    def result(self, number: int) -> str:
        """Return the file name of a variation's result, or "" if there is none.

        The file is in the job folder or in another place.
        """
        pattern = f"result-{number}.*"
        found = self.elsewhere(pattern)
        # A job folder on a disconnected network drive can't be searched.
        with contextlib.suppress(OSError):
            found = found or next(self._job.folder.glob(pattern), None)
        return found.name if found else ""

    def is_picture(self, name: str) -> bool:
        """Return whether the result called `name` begins like a picture, readable or not."""
        try:
            with (self.elsewhere(name) or self._job.folder / name).open("rb") as file:
                return bool(picture.kind(file.read(64)))
        except OSError:
            return False

    def later(self, number: int, error: OSError) -> Failure:
        """Return the failure for a result that can't be written to the job folder or used there.

        Its message says how to get the result, and where it is kept until then.
        """
        sentence = (
            _(
                "The result is there, but the disk of {folder} is full. Free some space, then "
                "“python -m plugin resume {job}” goes on, at no cost."
            )
            if error.errno in _FULL
            else _(
                "The result is there, but {folder} can't be used ({why}). Once that is mended, "
                "“python -m plugin resume {job}” goes on, at no cost."
            )
        )
        text = sentence.format(folder=self._job.folder, why=error.strerror, job=self._job.id)
        return Failure(Failure.PENDING, text + self._until_then(number))

    def _trying(self, number: int, error: OSError) -> str:
        """Return the message for a job folder that can't be written to, during further attempts."""
        sentence = (
            _("The disk of {folder} is full: free some space for the result.")
            if error.errno in _FULL
            else _(
                "The result can't be written to {folder} ({why}). Make it writable again: for a "
                "minute it is tried anew."
            )
        )
        text = sentence.format(folder=self._job.folder, why=error.strerror)
        return text + self._until_then(number)

    def _until_then(self, number: int) -> str:
        spare = self.elsewhere(f"result-{number}.*")
        return " " + _("Until then it is kept in {place}.").format(place=spare) if spare else ""

    def elsewhere(self, pattern: str) -> Path | None:
        """Return the path of a file that matches `pattern`, of this job but outside its folder.

        Return None if there is none.
        """
        for parent in _parents():
            with contextlib.suppress(OSError):
                folder = _own_folder(parent) / self._job.id
                # Other users can write to the parent folder, so only a folder that belongs to the
                # user is trusted.
                if folder.is_dir() and settings.private_folder(folder.parent):
                    for found in sorted(folder.glob(pattern)):
                        return found
        return None


def _write_elsewhere(job: str, name: str, data: bytes) -> Path | None:
    """Write a file of a job outside its folder. Return its path, or None if this fails."""
    for parent in _parents():
        with contextlib.suppress(OSError):
            own = settings.private_folder(_own_folder(parent))
            path = settings.private_folder(own / job) / name
            try:
                settings.write_private(path, data)
                return path
            except OSError:
                _forget(path)
    return None


def _forget(path: Path) -> None:
    """Remove a file outside a job folder, and the folders that are empty after that."""
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)
        path.parent.rmdir()
        path.parent.parent.rmdir()


def _own_folder(parent: Path) -> Path:
    """Return the user's folder in `parent`. Raises FileExistsError if it is a symbolic link."""
    user = f"-{os.geteuid()}" if os.name == "posix" else ""
    folder = parent / f"dimilinks-gimp{user}"
    if folder.is_symlink():
        raise FileExistsError
    return folder


def _parents() -> Iterator[Path]:
    if os.name == "posix":
        # Files in /var/tmp survive a restart, unlike many in /tmp.
        yield Path("/var/tmp")  # noqa: S108
    with contextlib.suppress(OSError):
        yield Path(tempfile.gettempdir())
