"""Runs inside GIMP's Python, started by python-fu-eval: the user's script, as python would run it.

Variable RUN is given from outside: the run's folder, with `run.json` and the pipes `out` and `err`.
Leaves the script's exit code in the file `code` there.
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
    """Let descriptor `number`, and python's stream on it, lead where `target` leads."""
    os.dup2(target, number)
    # A new stream, as the old one keeps what it found out about a log file. Written line by line,
    # so that the output is seen live.
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
    """Run the script as `__main__`; its exit code, with the traceback printed if it raised."""
    os.chdir(cwd)
    path = Path(script).absolute()
    # A new list: GIMP's own start still reads the old one when the script has ended.
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
        # Without this file's own frame, as python shows it.
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
    # What GIMP itself writes from here on is not the script's.
    for number, target in gimps.items():
        redirect(number, target)
    (folder / "code").write_text(str(code), encoding="utf-8")


if "RUN" in globals():
    main(globals()["RUN"])
