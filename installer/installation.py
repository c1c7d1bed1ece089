"""The commands for the user's own GIMPs: install, list, uninstall and doctor."""

from __future__ import annotations

import contextlib
import os
import platform
import re
import shlex
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path

from . import doctor, durable, environment, payload, programs
from .folders import (
    CHECKOUT,
    NAME,
    Failure,
    cache_folder,
    data_folder,
    locked,
    locked_now,
    make_data_folder,
    remove,
)
from .gimps import SERIES, Gimp, Profile, all_gimps, find_profiles, homes, named_profile

NO_GIMP = (
    "No GIMP 3 was found for this user. Install GIMP 3.0 or 3.2 (gimp.org, or your system's "
    "package gimp), or name a profile folder with --gimp-dir."
)
OURS = ("key", "settings.json", "settings.json.damaged-*", "busy.json", "jobs", "locks")
"""The patterns of the files that the plug-in and the worker keep in each folder of `homes()`.

See plugin/settings.py, plugin/job.py and plugin/worker/service/patience.py.
"""


def install(gimp_dir: Path | None, wheels: Path | None, dry_run: bool) -> int:
    """Install the plug-in in GIMP's profiles, check that each GIMP lists it, and return 0.

    The only profile is `gimp_dir`, if it is given; otherwise these are all profiles of the user.
    With `dry_run`, only print what would be done. If the installation in one profile fails,
    continue with the other profiles. Raises Failure with the messages of all failures.
    """
    environment.check_python()
    if wheels and not wheels.is_dir():
        raise Failure(f"There is no folder {wheels}: make it with the command wheels.")
    profiles = [named_profile(gimp_dir)] if gimp_dir else find_profiles()
    if not profiles:
        raise Failure(NO_GIMP)
    if gimp_dir:
        _refuse_other_folder(profiles[0].folder)
    _show_plan(profiles, wheels)
    if dry_run:
        return 0
    failures = []
    with _lock():
        todo = profiles
        while todo:
            # List the profiles in profiles.txt before installing anything in them, because `_prune`
            # keeps an environment only as long as a known profile uses it.
            _note({*_noted(), *(profile.folder for profile in todo)})
            for profile in todo:
                try:
                    _put(profile, wheels)
                except Failure as failure:
                    failures.append(str(failure))
            done = {profile.folder for profile in profiles}
            # Look for further profiles, because the first start of one GIMP can create a folder
            # that another GIMP then reads as its profile.
            todo = [] if gimp_dir else [p for p in find_profiles() if p.folder not in done]
            profiles += todo
        _note(set(_noted()))
        for folder, why in _prune().items():
            print(f"Left {folder}: {why}. The next installation removes it.", flush=True)
    for profile in profiles:
        if payload.is_installed(profile.folder):
            failures += _tried(profile, gimp_dir)
    if failures:
        raise Failure("\n".join(dict.fromkeys(failures)))
    return 0


def _refuse_other_folder(folder: Path) -> None:
    """Raise Failure if `folder` is a folder of GIMP, but not the profile of a supported GIMP.

    It can be the profile of another series, the folder plug-ins of a profile, or the folder that
    contains the profiles. The installer would start a GIMP with this folder as its profile, and the
    GIMP would then write its own files among those that are already there.
    """
    if re.fullmatch(r"\d+\.\d+", folder.name) and folder.name not in SERIES:
        raise Failure(
            f"{folder} is the profile of GIMP {folder.name}, and Dimilinks is for GIMP "
            f"{' and '.join(SERIES)}: name the profile of one of these."
        )
    if folder.name == "plug-ins":
        raise Failure(f"{folder} lies in a profile folder: name that: {folder.parent}")
    inside = [folder / series for series in SERIES if (folder / series).is_dir()]
    if inside:
        raise Failure(f"{folder} holds profile folders: name one of them, such as {inside[0]}")


def _show_plan(profiles: Iterable[Profile], wheels: Path | None) -> None:
    version = payload.version(CHECKOUT)
    for profile in profiles:
        for gimp in profile.gimps:
            print(f"Found GIMP {gimp.version} ({gimp.kind}): {_started_by(gimp)}")
        former = "update" if payload.is_installed(profile.folder) else "put"
        print(f"Will {former} Dimilinks {version} in {payload.plugin_folder(profile.folder)}")
        for place in _places(profile):
            if place:
                print(f"Will have a Python environment for its worker in the {place}")
            elif not environment.runs(str(environment.python_in(environment.current()))):
                source = f"from {wheels}" if wheels else "90 MB to fetch, once"
                print(f"Will make an environment in {environment.current()} ({source})")
    sys.stdout.flush()


def _started_by(gimp: Gimp) -> str:
    return shlex.join(gimp.starter or (gimp.console,))


def _places(profile: Profile) -> list[str]:
    """Return the places where GIMPs run the plug-in in `profile`, as in payload.WORKER_PYTHON.

    For a profile without GIMPs, this is the machine itself.
    """
    return list(dict.fromkeys(gimp.place for gimp in profile.gimps)) or [""]


def _put(profile: Profile, wheels: Path | None) -> None:
    pythons = {}
    for gimp in profile.gimps:
        if gimp.place not in pythons:
            pythons[gimp.place] = environment.for_gimp(gimp, wheels)
    if not pythons:
        pythons[""] = str(environment.for_machine(wheels))
    if profile.gimps and not profile.folder.exists():
        gimp = profile.gimps[0]
        print(f"First start of GIMP {gimp.version}, for its profile …", flush=True)
        doctor.start(gimp, profile.folder if profile.named else None)
    payload.install(profile.folder, pythons)
    version = payload.version(payload.plugin_folder(profile.folder))
    print(f"Installed Dimilinks {version} in {profile.folder}.", flush=True)


def _tried(profile: Profile, gimp_dir: Path | None) -> list[str]:
    """Start the GIMPs of `profile` to check that they list the plug-in.

    Each start also updates pluginrc, the file with GIMP's list of plug-ins. Returns a message for
    each GIMP that doesn't list the plug-in.
    """
    if not profile.gimps:
        print("There is no GIMP here that reads this profile and can be asked: it was not tried.")
    failures = []
    for gimp in profile.gimps:
        name = f"GIMP {gimp.version} ({gimp.kind})"
        print(f"Starting {name} once, to see that it lists it …", flush=True)
        if doctor.ask(gimp, profile)[0].get("listed"):
            print(f"It does: look under Filters ▸ Dimilinks. (Procedure {doctor.PROCEDURE})")
        else:
            failures.append(
                f"{name} does not list {doctor.PROCEDURE}; "
                f"this tells more: {_command('doctor', gimp_dir)}"
            )
    return failures


def show() -> int:
    """Print all GIMPs, and all profiles with the version of the plug-in in each. Return 0."""
    gimps = all_gimps()
    for gimp in gimps:
        print(f"GIMP {gimp.version} ({gimp.kind}): {_started_by(gimp)}")
    if not gimps:
        print("GIMP 3: none found on this machine")
    for profile in _all_profiles():
        if payload.is_installed(profile.folder):
            state = f"Dimilinks {payload.version(payload.plugin_folder(profile.folder))}"
        else:
            state = "not installed"
        print(f"profile {profile.folder}: {state}")
    return 0


def uninstall(gimp_dir: Path | None, everything: bool, dry_run: bool) -> int:
    """Remove the plug-in from the profile `gimp_dir`, or else from all profiles, and return 0.

    If the plug-in is then in no profile any more, the worker's environments are removed, too. The
    key, settings and jobs are removed only with `everything`. With `dry_run`, only print what would
    be removed.
    """
    profiles = [named_profile(gimp_dir)] if gimp_dir else _all_profiles()
    if dry_run:
        for profile in profiles:
            if payload.is_installed(profile.folder):
                print(f"Will remove {payload.plugin_folder(profile.folder)}")
        for home in homes():
            verb = "remove" if everything else "keep"
            print(f"Will {verb} key, settings and edits in {home}")
        return 0
    with _lock():
        if everything:
            _forget_key()
        for profile in profiles:
            if payload.uninstall(profile.folder):
                print(f"Removed Dimilinks from {profile.folder}.", flush=True)
                _refresh(profile)
            else:
                print(f"Not installed in {profile.folder}.")
        _note(set(_noted()))
        last = not any(payload.is_installed(profile.folder) for profile in _all_profiles())
        left = _prune(all_of_them=last)
        for folder, why in left.items():
            print(
                f"Left {folder}: {why}. An edit that was sent goes on to its end, and its result "
                "is kept. Run this again later to remove the rest.",
                flush=True,
            )
    if last and not left:
        for folder in environment.environments_folders():
            shutil.rmtree(folder, ignore_errors=True)
            with contextlib.suppress(OSError):
                folder.parent.rmdir()
    for home in homes():
        if everything:
            _remove_home(home)
        elif _ours(home):
            print(f"Key, settings and edits were kept: {home} (--everything removes them, too)")
    if everything and cache_folder().exists():
        print(f"Left is what the commands demo and host fetched: remove {cache_folder()}")
    return 0


def _ours(home: Path) -> list[Path]:
    return [path for name in OURS for path in home.glob(name)]


def _remove_home(home: Path) -> None:
    """Remove the key, settings and jobs in `home`, but keep jobs in progress.

    Jobs in progress are kept because the user pays for them.
    """
    under_way = []
    for job in (home / "jobs").glob("*/lock"):
        with contextlib.suppress(OSError), locked_now(job) as free:
            if not free:
                under_way.append(job.parent)
    others = [path for path in _ours(home) if path.name != "jobs"]
    for path in [*others, *(home / "jobs").glob("*")]:
        if path not in under_way:
            remove(path)
    for folder in (home / "jobs", home):
        with contextlib.suppress(OSError):
            folder.rmdir()
    print(f"Removed key, settings and edits: {home}")
    for job in under_way:
        print(
            f"Left {job}: this edit is under way, and its result will be there. "
            "Run this again later to remove it."
        )


def _forget_key() -> None:
    """Let the worker remove the key from the system's keyring, if the settings say it is there.

    If the worker fails, print how the user can remove the key.
    """
    if not any('"keyring"' in _text(home / "settings.json") for home in homes()):
        return
    pythons = {payload.worker_pythons(profile.folder).get("") for profile in _all_profiles()}
    for python in filter(None, pythons):
        with contextlib.suppress(OSError):
            done = programs.run([python, "-m", "plugin", "key", "forget"], cwd=CHECKOUT)
            if done.returncode == 0:
                return
    print(f"The key is still in the system's keyring: remove the entry {NAME} there.")


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _refresh(profile: Profile) -> None:
    """Start a GIMP of `profile`, so that it drops the removed plug-in from its list of plug-ins.

    GIMP updates this list, the file pluginrc, only when GIMP starts.
    """
    for gimp in profile.gimps[:1]:
        with contextlib.suppress(OSError):
            if payload.NAME in (profile.folder / "pluginrc").read_text("utf-8", errors="replace"):
                doctor.start(gimp, profile.folder if profile.named else None)


def examine(gimp_dir: Path | None) -> int:
    """Run the command `doctor`: print every finding, and a report of them without secrets.

    Returns 1 if a finding is wrong, and 0 otherwise. Raises Failure if there are no profiles.
    """
    profiles = [named_profile(gimp_dir)] if gimp_dir else _all_profiles()
    if not profiles:
        raise Failure(NO_GIMP)
    report = [
        f"Dimilinks {payload.version(CHECKOUT)} of the installer, "
        f"Python {platform.python_version()}, {platform.platform()}"
    ]
    report += [f"GIMP {each.version} ({each.kind}): {_started_by(each)}" for each in all_gimps()]
    wrong = 0
    for profile in profiles:
        head = f"{profile.folder} ({_readers(profile)})"
        print(head)
        report.append(head)
        for finding in doctor.examine(profile, _command("install", gimp_dir)):
            print(finding, flush=True)
            report.append(str(finding))
            wrong += finding.wrong
    total = f"{wrong} {'thing is' if wrong == 1 else 'things are'} wrong." if wrong else ""
    print(total or "All is well.")
    print("\nThis can be pasted where you ask for help. It holds no key:\n\n```")
    print(doctor.without_secrets("\n".join([*report, total or "All is well."])))
    print("```")
    return 1 if wrong else 0


def _readers(profile: Profile) -> str:
    names = [f"GIMP {gimp.version} ({gimp.kind})" for gimp in profile.gimps]
    return ", ".join(names) or "no GIMP here reads it"


def _command(name: str, gimp_dir: Path | None) -> str:
    option = f" --gimp-dir {shlex.quote(str(gimp_dir))}" if gimp_dir else ""
    python = "py" if sys.platform == "win32" else "python3"
    return f"{python} -m installer {name}{option}"


def _all_profiles() -> list[Profile]:
    """Return the profiles that are found, and the listed ones in which the plug-in is installed."""
    found = find_profiles()
    known = {profile.folder for profile in found}
    return found + [named_profile(folder) for folder in _noted() if folder not in known]


# The next functions maintain the list of the profiles with the plug-in. Without this list, the
# installer could not find the profiles that the user named with --gimp-dir. It must find them,
# because it keeps an environment until the last profile that uses the environment is gone.


def _list_file() -> Path:
    return data_folder() / "profiles.txt"


def _lock() -> contextlib.AbstractContextManager[None]:
    make_data_folder()
    return locked(
        environment.environments_folder() / "install.lock",
        waiting="Waiting for another installer …",
    )


def _noted() -> list[Path]:
    """Return the profiles on the list in which the plug-in is still installed."""
    try:
        lines = os.fsdecode(_list_file().read_bytes()).splitlines()
    except OSError:
        return []
    for line in lines:
        with contextlib.suppress(OSError):
            # If an installer was killed between the two renames that exchange the plug-in, restore
            # the former plug-in. Otherwise the plug-in would seem to be missing.
            payload.recover(Path(line))
    return [Path(line) for line in lines if payload.is_installed(Path(line))]


def _note(folders: set[Path]) -> None:
    if folders:
        text = "".join(f"{folder}\n" for folder in sorted(folders))
        durable.write(_list_file(), text)
    else:
        remove(_list_file())


def _prune(all_of_them: bool = False) -> dict[Path, str]:
    """Remove the environments that no profile uses any more.

    Keep the machine's current environment in any case, except with `all_of_them`. Returns a
    dictionary from each environment that could not be removed to the reason.
    """
    used = set() if all_of_them else {environment.current()}
    for profile in _all_profiles():
        # The path of an interpreter is …/ENVIRONMENT/bin/python.
        used |= {
            Path(python).parents[1]
            for python in payload.worker_pythons(profile.folder).values()
            if len(Path(python).parents) > 1
        }
    left: dict[Path, str] = {}
    for parent in environment.environments_folders():
        for folder in parent.glob("*py3.*"):
            if folder.is_dir() and folder not in used:
                why = environment.discard(folder)
                if why:
                    left[folder] = why
                else:
                    remove(folder.with_name(f"{folder.name}.lock"))
    return left
