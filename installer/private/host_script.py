"""Run a user's script inside GIMP's Python, in the same way as the command `python` would.

GIMP's batch interpreter python-fu-eval runs this file with the global variable RUN, which is the
path of a folder. The folder contains the file `run.json`, which names the user's script, and the
pipes `out` and `err`, to which the script's output goes. This file writes the script's exit code to
the file `code` in that folder.
"""

from __future__ import annotations

import io
import json
import os
import sys
import traceback
import types
from pathlib import Path


def redirect(number: int, target: int) -> None:
    """Redirect the file descriptor `number` (1 or 2), and Python's stream for it, to `target`.

    `target` is another file descriptor.
    """
    os.dup2(target, number)
    # Create a new stream, because the old stream keeps the encoding and the buffering that fit the
    # log file. The new stream writes each line at once, so that the user sees the line at once.
    stream = io.TextIOWrapper(
        io.FileIO(number, "w", closefd=False),
        encoding="utf-8",
        errors="backslashreplace",
        line_buffering=True,
    )
    if number == 1:
        sys.stdout = stream
    else:
        sys.stderr = stream


def execute(script: str, arguments: list[str], cwd: str) -> int:
    """Run the script as `__main__` in the folder `cwd`; return 1 if it failed, and 0 otherwise.

    If the script raised an exception, print the traceback.
    """
    os.chdir(cwd)
    path = Path(script).absolute()
    # Assign a new list instead of changing the old one, because GIMP's start-up code still reads
    # the old list after the script has ended.
    sys.argv = [script, *arguments]
    sys.path.insert(0, str(path.resolve().parent))
    module = types.ModuleType("__main__")
    module.__file__ = str(path)
    sys.modules["__main__"] = module
    try:
        exec(compile(path.read_bytes(), path, "exec"), module.__dict__)  # noqa: S102
    except SystemExit as leaving:
        if leaving.code is None or leaving.code == 0:
            return 0
        if not isinstance(leaving.code, int):
            print(leaving.code, file=sys.stderr)
        return 1
    except BaseException as error:
        # Leave out the frame of this file, so that the traceback looks like Python's own.
        frames = error.__traceback__.tb_next if error.__traceback__ else None
        traceback.print_exception(type(error), error, frames)
        return 1
    return 0


def main(run: str) -> None:
    folder = Path(run)
    job = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    gimps = {number: os.dup(number) for number in (1, 2)}
    for number, name in ((1, "out"), (2, "err")):
        redirect(number, os.open(folder / name, os.O_WRONLY))
    code = execute(job["script"], job["arguments"], job["cwd"])
    sys.stdout.flush()
    # Restore GIMP's own output, because the messages that GIMP prints from now on do not belong to
    # the script's output.
    for number, target in gimps.items():
        redirect(number, target)
    (folder / "code").write_text(str(code), encoding="utf-8")


if "RUN" in globals():
    main(globals()["RUN"])
