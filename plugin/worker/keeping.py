"""Writing what was paid for, whatever becomes of the job's folder meanwhile.

Where that can't be written to, because its disk is full, read-only, or gone from the network, a
result is written elsewhere first, and then into the folder as soon as possible:

    /var/tmp/dimilinks-gimp-1000/20261122-133005-7f3a/result-1.png

That place is always the same, so going on with the job finds it there, whatever could be noted in
the job. Folders and files are private to the user.
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
    """Writes into one job; `report` is told the variation, its phase, and a sentence."""

    def __init__(self, job: Job, report: Callable[[int, str, str], None]) -> None:
        self._job = job
        self._report = report

    def write(self, number: int, phase: str, write: Callable[[], None]) -> None:
        """Let `write` write; where that fails, again for a while. Raises OSError then."""
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
        """Write a result, elsewhere until it is in the job. Raises OSError if it is not there."""

        def write() -> None:
            settings.write_private(self._job.folder / name, data)

        try:
            write()
            return
        except OSError:
            # From here on it survives whatever happens to this process.
            spare = _write_elsewhere(self._job.id, name, data)
        self.write(number, "downloading", write)
        if spare:
            _forget(spare)

    def bring_home(self, number: int, name: str) -> None:
        """Move a result that is elsewhere into the job. Raises OSError."""
        if spare := self.elsewhere(name):
            data = spare.read_bytes()

            def write() -> None:
                settings.write_private(self._job.folder / name, data)

            self.write(number, "placing", write)
            _forget(spare)

    def result(self, number: int) -> str:
        """Return the name of a variation's result, in the job or elsewhere; "" for none."""
        pattern = f"result-{number}.*"
        found = self.elsewhere(pattern)
        # A folder that is gone from the network can't be searched, either.
        with contextlib.suppress(OSError):
            found = found or next(self._job.folder.glob(pattern), None)
        return found.name if found else ""

    def is_picture(self, name: str) -> bool:
        """Whether that result is a picture by its first bytes, be it readable or not."""
        try:
            with (self.elsewhere(name) or self._job.folder / name).open("rb") as file:
                return bool(picture.kind(file.read(64)))
        except OSError:
            return False

    def later(self, number: int, error: OSError) -> Failure:
        """Tell what must be done to get at a result that is there, and where it is."""
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
        """The sentence for a job that can't be written to, while that is tried again."""
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
        """Return the first file of the job outside of it whose name matches."""
        for parent in _parents():
            with contextlib.suppress(OSError):
                folder = _own_folder(parent) / self._job.id
                # Others may write beside it: only a folder of the user's own counts.
                if folder.is_dir() and settings.private_folder(folder.parent):
                    for found in sorted(folder.glob(pattern)):
                        return found
        return None


def _write_elsewhere(job: str, name: str, data: bytes) -> Path | None:
    """Write a file of a job outside of it; return its path, None where that can't be done."""
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
    """Remove a file that is in its job now, and the folders that are empty then."""
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)
        path.parent.rmdir()
        path.parent.parent.rmdir()


def _own_folder(parent: Path) -> Path:
    """Return the user's folder there. Raises OSError if it leads elsewhere."""
    user = f"-{os.geteuid()}" if os.name == "posix" else ""
    folder = parent / f"dimilinks-gimp{user}"
    if folder.is_symlink():
        raise FileExistsError
    return folder


def _parents() -> Iterator[Path]:
    if os.name == "posix":
        # What lies here outlives a restart, which much that lies in /tmp doesn't.
        yield Path("/var/tmp")  # noqa: S108
    with contextlib.suppress(OSError):
        yield Path(tempfile.gettempdir())
