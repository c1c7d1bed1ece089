"""The checks of the command `doctor`, which find faults in an installation and suggest remedies."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import environment, payload, programs
from .folders import CHECKOUT
from .gimps import Gimp, Profile, homes

PROCEDURE = "dimilinks-edit"
TIMEOUT = 300
_ASKED = f"""
import json
procedure = Gimp.get_pdb().lookup_procedure("gimp-gimprc-query")
config = procedure.create_config()
config.set_property("token", "plug-in-path")
value = procedure.run(config).index(1)
with open({{answer!a}}, "w", encoding="utf-8") as file:
    json.dump(
        {{{{
            "listed": Gimp.get_pdb().procedure_exists("{PROCEDURE}"),
            "folder": Gimp.directory(),
            "path": value or "",
        }}}},
        file,
    )
"""
_CERTIFICATES = """
import json, os, requests
from requests.utils import DEFAULT_CA_BUNDLE_PATH as own
names = "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"
chosen = next(((name, os.environ[name]) for name in names if os.environ.get(name)), ("", own))
print(json.dumps([*chosen, os.path.exists(chosen[1])]))
"""


@dataclass(frozen=True)
class Finding:
    """The outcome of one check.

    A finding without a `remedy` says that all is well. A finding with a remedy describes a fault.
    If the finding is `noted`, the fault doesn't count as wrong, because the installation itself is
    in order or because another finding already reports the cause.
    """

    text: str
    remedy: str = ""
    noted: bool = False

    @property
    def wrong(self) -> bool:
        return bool(self.remedy) and not self.noted

    def __str__(self) -> str:
        mark = "wrong" if self.wrong else "note" if self.noted else "ok"
        return f"  {mark:5}  {self.text}" + (f"\n         → {self.remedy}" if self.remedy else "")


def start(gimp: Gimp, profile: Path | None, *options: str) -> str:
    """Start `gimp` once without a window, and return GIMP's output, or the error if that failed.

    Without `profile`, GIMP uses its default profile. The caller must not create a missing profile
    folder, because GIMP copies the settings of its previous version only to a profile that GIMP
    creates itself.
    """
    led = {"GIMP3_DIRECTORY": str(profile)} if profile else {}
    try:
        return programs.run(
            gimp.command("--no-interface", "--quit", *options),
            {**programs.environ_of_gimp(), **led},
            capture_output=False,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=TIMEOUT,
        ).stdout
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)


def ask(gimp: Gimp, profile: Profile) -> tuple[dict[str, Any], str]:
    """Start `gimp` without a window, and ask it for its procedures and folders.

    Returns a dictionary and GIMP's output. The dictionary has the keys "listed" (whether GIMP lists
    the plug-in's procedure), "folder" (the profile that GIMP uses) and "path" (GIMP's setting
    plug-in-path). If GIMP did not answer, the dictionary is empty and the output says why.
    """
    # A GIMP in a Flatpak or Snap has a /tmp of its own, so create the folder next to the profile,
    # which such a GIMP can access.
    parent = profile.folder.parent if gimp.place else None
    with tempfile.TemporaryDirectory(prefix=".dimilinks-gimp-", dir=parent) as folder:
        answer = Path(folder) / "answer"
        code = f"exec({_ASKED.format(answer=str(answer))!a})"
        led = profile.folder if profile.named else None
        printed = start(gimp, led, "--batch-interpreter=python-fu-eval", f"--batch={code}")
        try:
            return json.loads(answer.read_text(encoding="utf-8")), printed
        except (OSError, ValueError):
            return {}, printed


def examine(profile: Profile, install_command: str) -> Iterator[Finding]:
    """Check one profile, and yield the findings.

    `install_command` is the command that installs the plug-in again. The findings suggest it as the
    remedy for every fault that a new installation repairs.
    """
    again = f"run {install_command}"
    plug_ins = profile.folder / "plug-ins"
    folder = payload.plugin_folder(profile.folder)
    for stray in [*plug_ins.glob(payload.MAIN), *plug_ins.glob(f"*/{payload.MAIN}")]:
        if stray.parent != folder:
            # If `stray` belongs to a copy of the whole plug-in, the user must remove that folder.
            copy = stray.parent != plug_ins and (stray.parent / "plugin").is_dir()
            yield Finding(
                f"{stray} lies where GIMP skips it or finds it twice",
                f"remove {stray.parent if copy else stray}: the plug-in's place is {folder}",
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
    for gimp in profile.gimps:
        yield from _asked(gimp, profile, main, again)
    yield from _workers(profile, again)


def _asked(gimp: Gimp, profile: Profile, main: Path, again: str) -> Iterator[Finding]:
    """Check whether `gimp` lists the plug-in's procedure, and yield the findings."""
    # Check pluginrc before calling `ask`, because `ask` starts GIMP, which updates that file.
    yield _remembered(profile.folder, main)
    about, messages = ask(gimp, profile)
    name = f"GIMP {gimp.version} ({gimp.kind})"
    if about and Path(about["folder"]) != profile.folder and not profile.named and not gimp.place:
        yield Finding(
            f"{name} reads the folder {about['folder']}, not {profile.folder}",
            f"name it: {again} --gimp-dir '{about['folder']}'",
        )
    path = str(about.get("path", ""))
    elsewhere = bool(path) and "${gimp_dir}" not in path and str(profile.folder) not in path
    if elsewhere:
        yield Finding(
            f"{name} looks for plug-ins in other folders only: {path}",
            f"add {main.parent.parent} in GIMP under Edit ▸ Preferences ▸ Folders ▸ Plug-ins",
        )
    if about.get("listed"):
        yield Finding(f"{name} lists {PROCEDURE}")
        return
    if elsewhere or not os.access(main, os.X_OK):
        yield Finding(
            f"{name} does not list {PROCEDURE} for that reason", "do what is said above", noted=True
        )
        return
    # GIMP loads a plug-in at the start, and prints the plug-in's errors, only if the file `main`
    # has a new modification time. So set a new one, and ask again to get these errors.
    os.utime(main)
    _about, again_messages = ask(gimp, profile)
    lines = (again_messages or messages).strip().splitlines()
    tail = "\n".join(f"         | {line}" for line in lines[-30:])
    yield Finding(
        f"{name} does not list {PROCEDURE}; its messages:\n{tail}",
        f"{again}; if that does not help, report these messages",
    )


def _remembered(profile: Path, main: Path) -> Finding:
    """Check whether pluginrc, GIMP's list of plug-ins, has the modification time of `main`."""
    try:
        text = (profile / "pluginrc").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return Finding("pluginrc: none yet, GIMP makes it at its start")
    found = re.search(rf'\(plug-in-def "[^"]*{re.escape(payload.MAIN)}" (\d+)', text)
    if found and int(found[1]) == int(main.stat().st_mtime):
        return Finding("pluginrc has the plug-in as it is installed")
    return Finding(
        "pluginrc is older than the plug-in: a GIMP that is running doesn't see it",
        "start GIMP anew",
        noted=True,
    )


def _workers(profile: Profile, again: str) -> Iterator[Finding]:
    """Check what the worker uses: its interpreter, packages, CA certificates and the service."""
    pythons = payload.worker_pythons(profile.folder)
    places = dict.fromkeys(gimp.place for gimp in profile.gimps) or dict.fromkeys(pythons)
    for place in places or [""]:
        inside = f" (in the {place})" if place else ""
        python = pythons.get(place, "")
        if not python:
            yield Finding(
                f"{payload.WORKER_PYTHON} is missing: the worker has no interpreter{inside}", again
            )
        elif place:
            gimp = next((each for each in profile.gimps if each.place == place), None)
            if gimp and not environment.in_sandbox(gimp).works():
                yield Finding(f"the worker's packages do not load in {python}{inside}", again)
            else:
                yield Finding(f"worker: {python}{inside}")
        elif not os.access(python, os.X_OK):
            yield Finding(f"the worker's interpreter {python} is gone", again)
        elif not environment.runs(python):
            why = _last_line([python, "-c", environment.IMPORTS])
            yield Finding(f"the worker's packages do not load in {python}: {why}", again)
        else:
            yield Finding(f"worker: {python} has its packages")
            yield _certificates(python)
            yield from _service(python)


def _last_line(command: list[str]) -> str:
    try:
        done = programs.run(command)
    except OSError as error:
        return str(error)
    return (done.stderr.strip().splitlines() or [""])[-1]


def _certificates(python: str) -> Finding:
    """Check whether the CA certificates exist with which the worker verifies the service."""
    done = programs.run([python, "-c", _CERTIFICATES])
    try:
        variable, path, there = json.loads(done.stdout)
    except ValueError:
        return Finding("the CA certificates can't be found out", "report this")
    said = f"CA certificates: {path}" + (f", named by {variable}" if variable else "")
    if there:
        return Finding(said)
    return Finding(f"{said}, where nothing is", f"unset {variable}, or let it name a file")


def _service(python: str) -> Iterator[Finding]:
    """Check where the API key is and whether edits would work. No finding contains the key."""
    command = [python, "-m", "plugin", "service", "--test"]
    done = programs.run(command, programs.environ(key=True), cwd=CHECKOUT)
    try:
        about = json.loads(done.stdout.splitlines()[-1])
    except (ValueError, IndexError):
        said = (done.stderr.strip().splitlines() or ["no answer"])[-1]
        yield Finding(f"edits would fail: {said}", "mend what it names")
        return
    settings = "Filters ▸ Dimilinks ▸ Settings…"
    if about.get("sandbox"):
        yield Finding("service: the built-in sandbox, which needs no key")
        return
    if about.get("key_in"):
        yield Finding(f"API key: in the {about['key_in']}")
    else:
        yield Finding(
            "API key: none yet", f"enter it in {settings}, or choose the sandbox there", noted=True
        )
        return
    message = str(about.get("message", ""))
    if about.get("works"):
        yield Finding(f"service: {message}")
    else:
        yield Finding(
            f"service: {message}", f"see the network and proxy, and {settings}", noted=True
        )


def without_secrets(report: str) -> str:
    """Return `report` without secrets, so that the user can publish it.

    The returned report has "[key]" in place of the API key, "[password]" in place of user names
    and passwords in addresses, and ~ in place of the path of the home folder.
    """
    keys = [os.environ.get("DIMILINKS_API_KEY", "")]
    for home in homes():
        with contextlib.suppress(OSError):
            keys.append((home / "key").read_text(encoding="utf-8", errors="replace"))
    for key in filter(None, map(str.strip, keys)):
        report = report.replace(key, "[key]")
    report = re.sub(r"(://)[^/@\s]+@", r"\1[password]@", report)
    for name in {str(Path.home()), os.path.realpath(Path.home())}:
        if name not in ("/", ""):
            report = re.sub(rf"{re.escape(name)}(?![\w.-])", "~", report)
    return report
