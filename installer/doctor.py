"""What is wrong with an installation, and the remedy; each check is a line."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from . import environment, payload
from .profiles import Gimp, Profile

PROCEDURE = "dimilinks-edit"
TIMEOUT = 300


@dataclass(frozen=True)
class Finding:
    """One check: what was seen, and what to do if it is wrong."""

    text: str
    remedy: str = ""

    def __str__(self) -> str:
        mark = "wrong" if self.remedy else "ok"
        return f"  {mark:5}  {self.text}" + (f"\n         → {self.remedy}" if self.remedy else "")


def start(gimp: Gimp, profile: Path, *options: str) -> str:
    """Start this GIMP once without a window; what it printed.

    It must make a missing profile by itself: in one that it finds, it doesn't take over the
    settings of the version before.
    """
    try:
        return subprocess.run(
            [gimp.console, "--no-interface", "--quit", *options],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=TIMEOUT,
            env={**os.environ, "GIMP3_DIRECTORY": str(profile)},
        ).stdout
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)


def lists_procedure(gimp: Gimp, profile: Path) -> tuple[bool, str]:
    """Start this GIMP without a window on this profile: does it list our procedure?

    Also returns what it printed, which tells why not.
    """
    with tempfile.TemporaryDirectory(prefix="dimilinks-gimp-") as folder:
        answer = Path(folder) / "answer"
        code = (
            f"open({str(answer)!r}, 'w').write(str(Gimp.get_pdb().procedure_exists('{PROCEDURE}')))"
        )
        printed = start(gimp, profile, "--batch-interpreter=python-fu-eval", f"--batch={code}")
        return answer.is_file() and answer.read_text() == "True", printed


def examine(profile: Profile, install_command: str) -> Iterator[Finding]:
    """Check one profile. `install_command` is the remedy for what a new installation mends."""
    again = f"run {install_command}"
    plug_ins = profile.folder / "plug-ins"
    folder = payload.plugin_folder(profile.folder)
    for stray in [*plug_ins.glob(payload.MAIN), *plug_ins.glob(f"*/{payload.MAIN}")]:
        if stray.parent != folder:
            yield Finding(
                f"{stray} lies where GIMP skips it or finds it twice",
                f"remove it: the plug-in's place is {folder}",
            )
    if not folder.is_dir():
        yield Finding(f"plug-in: not installed in {folder}", again)
        return
    main = folder / payload.MAIN
    if not main.is_file() or not (folder / "plugin").is_dir():
        yield Finding(f"plug-in: {folder} is incomplete", again)
        return
    yield Finding(f"plug-in: {payload.version(folder)} in {folder}")
    if os.access(main, os.X_OK):
        yield Finding(f"{main.name} is executable")
    else:
        yield Finding(
            f"{main.name} is not executable, so GIMP skips it", f"{again}, or: chmod +x '{main}'"
        )
    yield _worker(profile.folder, again)
    if profile.gimp:
        yield _listed(profile.gimp, profile.folder, again)


def _worker(profile: Path, again: str) -> Finding:
    python = payload.worker_python(profile)
    if not python:
        return Finding(f"{payload.WORKER_PYTHON} is missing: the worker has no interpreter", again)
    if not os.access(python, os.X_OK):
        return Finding(f"the worker's interpreter {python} is gone", again)
    if not environment.runs(python):
        return Finding(f"the worker's packages do not load in {python}", again)
    return Finding(f"worker: {python} has its packages")


def _listed(gimp: Gimp, profile: Path, again: str) -> Finding:
    listed, messages = lists_procedure(gimp, profile)
    if listed:
        return Finding(f"GIMP {gimp.version} lists {PROCEDURE}")
    tail = "\n".join(f"         | {line}" for line in messages.strip().splitlines()[-30:])
    return Finding(
        f"GIMP {gimp.version} does not list {PROCEDURE}; its messages:\n{tail}",
        f"{again}; if that does not help, report these messages",
    )
