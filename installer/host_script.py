"""Run a user's script inside GIMP's Python, in the same way as the command `python` would.

python-fu-eval starts this file, with the global variable RUN. RUN is the path of a folder that has
the file `run.json` and the pipes `out` and `err`. The script's exit code is written to the file
`code` in that folder.
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
    """Redirect the file descriptor `number` (1 or 2), and Python's stream for it, to `target`."""
    os.dup2(target, number)
    # The old stream keeps what it determined about the log file, so create a new one. It is
    # line-buffered, so that the output is seen at once.
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
    """Run the script as `__main__`, and return 0, or 1 if it failed.

    If the script raised an exception, its traceback is printed.
    """
    os.chdir(cwd)
    path = Path(script).absolute()
    # Assign a new list: GIMP's start-up code still reads the old one after the script has ended.
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
    # What GIMP itself prints from now on does not belong to the script's output.
    for number, target in gimps.items():
        redirect(number, target)
    (folder / "code").write_text(str(code), encoding="utf-8")


if "RUN" in globals():
    main(globals()["RUN"])
