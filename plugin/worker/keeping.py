"""Write results that were paid for, even if the job folder can't be written to.

If the disk of the job folder is full, read-only or disconnected, a result is first written to a
spare folder, and then to the job folder as soon as possible. An example of a file in a spare folder
(1000 is the user's number, and the next name is the id of the job):

    /var/tmp/dimilinks-gimp-1000/20261122-133005-7f3a/result-1.png

Because the path contains the id of the job, the result is found there when the job is resumed, even
if nothing could be recorded in the job folder. Other users can't read these folders and files.
"""

from __future__ import annotations

import contextlib
import errno
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from plugin import storage
from plugin.errors import Failure, Kind
from plugin.job import Job
from plugin.progress import Phase, Progress, Report
from plugin.translation import _
from plugin.worker.pictures import formats
from plugin.worker.service import patience

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Keeper:
    """Writes the results of one job, and calls `report` if writing takes several attempts."""

    def __init__(self, job: Job, report: Report) -> None:
        self._job = job
        self._report = report

    def write(self, number: int, phase: Phase, write: Callable[[], None]) -> None:
        """Call `write`, and call it again every few seconds as long as it raises OSError.

        The first OSError is reported to the user as a message about variation `number` in `phase`.
        After patience.ROOM seconds on a full disk, or patience.WRITING seconds otherwise, the last
        OSError is raised.
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
                    self._report(Progress(phase, number, note=self._trying(number, error)))
                    told = True
            time.sleep(patience.LOOKS)

    def write_result(self, number: int, name: str, data: bytes) -> None:
        """Write `data`, the result of variation `number`, to the file `name` in the job folder.

        If the first attempt fails, also write a copy to the spare folder, and remove the copy once
        the result is in the job folder. Raises OSError if repeated attempts to write to the job
        folder fail; the copy stays then.
        """

        def write() -> None:
            storage.write_private(self._job.folder / name, data)

        try:
            write()
            return
        except OSError:
            # With the copy in the spare folder, the result survives the end of this process.
            spare = _write_elsewhere(self._job.id, name, data)
        self.write(number, Phase.DOWNLOADING, write)
        if spare:
            _forget(spare)

    def bring_home(self, number: int, name: str) -> None:
        """Move the result `name` from the spare folder, if it is there, to the job folder.

        Raises OSError.
        """
        if spare := self.elsewhere(name):
            data = spare.read_bytes()

            def write() -> None:
                storage.write_private(self._job.folder / name, data)

            self.write(number, Phase.FITTING, write)
            _forget(spare)

    def result(self, number: int) -> str:
        """Return the file name of the result of variation `number`, or "" if there is none.

        The file is in the job folder or in the spare folder.
        """
        pattern = f"result-{number}.*"
        found = self.elsewhere(pattern)
        # Ignore an OSError: a job folder on a disconnected network drive can't be searched.
        with contextlib.suppress(OSError):
            found = found or next(self._job.folder.glob(pattern), None)
        return found.name if found else ""

    def is_picture(self, name: str) -> bool:
        """Return whether the first bytes of the result file `name` are those of a picture.

        The picture itself may be damaged.
        """
        try:
            with (self.elsewhere(name) or self._job.folder / name).open("rb") as file:
                return bool(formats.file_type(file.read(64)))
        except OSError:
            return False

    def later(self, number: int, error: OSError) -> Failure:
        """Return the Failure for a result that can't be written to the job folder or read there.

        The message tells the user how to get the result, and where the result is kept until then.
        """
        sentence = (
            _(
                "The result has arrived, but the disk with {folder} is full. Free some space, then "
                "choose Try Again, at no cost (edit number {job})."
            )
            if error.errno in _FULL
            else _(
                "The result has arrived, but {folder} can't be used ({why}). Solve this problem, "
                "then choose Try Again, at no cost (edit number {job})."
            )
        )
        text = sentence.format(folder=self._job.folder, why=error.strerror, job=self._job.id)
        return Failure(Kind.PENDING, text + self._until_then(number))

    def _trying(self, number: int, error: OSError) -> str:
        """Return the message for the time in which writing to the job folder is tried again."""
        sentence = (
            _(
                "The disk with {folder} is full, so the result can't be saved. Free some "
                "space. Dimilinks keeps trying to save it for 15 minutes."
            )
            if error.errno in _FULL
            else _(
                "The result can't be saved in {folder} ({why}). Make the folder writable. "
                "Dimilinks keeps trying to save it for a minute."
            )
        )
        text = sentence.format(folder=self._job.folder, why=error.strerror)
        return text + self._until_then(number)

    def _until_then(self, number: int) -> str:
        spare = self.elsewhere(f"result-{number}.*")
        return (
            " " + _("Until then, the result is kept in {place}.").format(place=spare)
            if spare
            else ""
        )

    def elsewhere(self, pattern: str) -> Path | None:
        """Return the path of a file in this job's spare folder that matches `pattern`.

        Return None if no file matches.
        """
        for parent in _parents():
            with contextlib.suppress(OSError):
                folder = _own_folder(parent) / self._job.id
                # Other users can create folders in `parent`, so trust only a folder that belongs to
                # this user.
                if folder.is_dir() and storage.private_folder(folder.parent):
                    for found in sorted(folder.glob(pattern)):
                        return found
        return None


def _write_elsewhere(job: str, name: str, data: bytes) -> Path | None:
    """Write a file to the spare folder of a job. Return its path, or None if writing fails.

    `job` is the id of the job.
    """
    for parent in _parents():
        with contextlib.suppress(OSError):
            own = storage.private_folder(_own_folder(parent))
            path = storage.private_folder(own / job) / name
            try:
                storage.write_private(path, data)
                return path
            except OSError:
                _forget(path)
    return None


def _forget(path: Path) -> None:
    """Remove a file in a spare folder, and its two parent folders if they are empty then."""
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)
        path.parent.rmdir()
        path.parent.parent.rmdir()


def _own_folder(parent: Path) -> Path:
    """Return the path of the user's folder in `parent`, which contains spare folders of jobs.

    Raises FileExistsError if the path is a symbolic link, because another user may have made it.
    """
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
