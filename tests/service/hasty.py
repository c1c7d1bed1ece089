"""Run the worker's command line with short pauses, and with a fault if that is wanted.

Run it as `python -m tests.service.hasty MOMENT COMMAND …`. COMMAND is as for `python -m plugin`.
All pauses and time limits are shorter than usual.

MOMENT is `never`, or says when a fault occurs and which. Examples:

    decode:kill     the worker is killed when it decodes a picture
    place:20000     from the fitting on, no file may become larger than 20000 bytes
    start:0:1       the same from the start, with 0 bytes, for one second

Host names that end in `.test` are resolved to this machine, so that certificates can be tested.
"""

from __future__ import annotations

import os
import resource
import signal
import socket
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from plugin import settings
from plugin.worker import cli, keeping
from plugin.worker.fitting import fit
from plugin.worker.pictures import formats
from plugin.worker.service import api, patience

HEARD = 1.0
"""Time limit for an answer, in seconds."""


def hurry() -> None:
    """Shorten all pauses and time limits."""
    patience.CONNECTING = 1.5
    patience.BUSY = 3.0
    patience.UNKNOWN = 0.3
    patience.POLLING = 2.0
    patience.POLLS = 0.05, 0.1, 0.3
    patience.ROOM = 2.0
    patience.WRITING = 1.0
    patience.LOOKS = 0.2
    patience.FETCHES = 0.05, 0.1, 0
    keeping._parents = lambda: iter([Path(os.environ["DIMILINKS_HOME"]).parent])
    api._QUESTION_SECONDS = api._FETCH_SECONDS = 0.5
    settings._READ_SECONDS = 0.1, HEARD, 3600


def befall(fault: str) -> None:
    """Cause a fault: `kill` kills this process, `BYTES` or `BYTES:SECONDS` limits its files.

    The limit stands for a full disk.
    """
    if fault == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    room, _colon, seconds = fault.partition(":")
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(room), resource.RLIM_INFINITY))
    if seconds:
        threading.Timer(float(seconds), befall, ["-1"]).start()


def before(step: Callable[..., Any], fault: str) -> Callable[..., Any]:
    def stepping(*arguments: Any) -> Any:
        befall(fault)
        return step(*arguments)

    return stepping


def find_test_names() -> None:
    ask = socket.getaddrinfo

    def found(host: Any, *arguments: Any, **named: Any) -> Any:
        here = str(host).endswith(".test")
        return ask("127.0.0.1" if here else host, *arguments, **named)

    socket.getaddrinfo = found


def main() -> int:
    moment, _colon, fault = sys.argv[1].partition(":")
    hurry()
    find_test_names()
    if moment == "start":
        befall(fault)
    elif moment == "decode":
        formats.read_result = before(formats.read_result, fault)
    elif moment == "place":
        fit.fit = before(fit.fit, fault)
    return cli.main(sys.argv[2:])


if __name__ == "__main__":
    sys.exit(main())
