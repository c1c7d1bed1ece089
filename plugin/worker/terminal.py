"""The standard streams of the command line: print any text, even if they are closed or narrow."""

from __future__ import annotations

import codecs
import contextlib
import io
import os
import sys
from typing import TextIO, cast


def open_streams() -> None:
    """Open standard streams that are closed, and let standard output print any character."""
    # If descriptor 0, 1 or 2 stayed closed, the next file that is opened would get this number, and
    # warnings that libraries print would be written into that file.
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(descriptor)
    sys.stdin = sys.stdin or _nowhere("r")
    sys.stdout = sys.stdout or _nowhere("w")
    sys.stderr = sys.stderr or _nowhere("w")
    codecs.register_error("dimilinks", _encodable)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="dimilinks")


def _nowhere(mode: str) -> TextIO:
    return cast(TextIO, open(os.devnull, mode, encoding="utf-8"))


def _encodable(error: UnicodeError) -> tuple[str | bytes, int]:
    """Replace characters that the output encoding lacks. This is an error handler for `codecs`.

    Bytes of a file name that Python could not decode are written unchanged. Other characters are
    written as escape sequences such as `\\u20ac`.
    """
    try:
        return codecs.lookup_error("surrogateescape")(error)
    except UnicodeError:
        return codecs.backslashreplace_errors(error)


def say(line: str, stream: TextIO | None = None) -> None:
    """Print `line` to `stream`, by default standard output. Ignore errors such as a closed pipe."""
    with contextlib.suppress(OSError):
        print(line, file=stream)


def complain(sentence: str) -> None:
    """Print a message for the user to standard error."""
    say(sentence, sys.stderr)
