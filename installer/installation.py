"""The commands about this user's own GIMPs: install, list, uninstall, doctor."""

from __future__ import annotations

import contextlib
import shlex
from pathlib import Path

from . import doctor, environment, payload
from .folders import Failure, data_folder, jobs_folder, locked, make_data_folder, remove
from .profiles import Profile, find_profiles, gimp_for, machine_gimps

NO_GIMP = (
    "No GIMP 3 was found for this user. Install GIMP 3.0 or 3.2 (gimp.org, or your system's "
    "package gimp), or name a profile folder with --gimp-dir."
)


def install(gimp_dir: Path | None) -> int:
    """Put the plug-in into the profiles, and have each GIMP say that it lists the procedure."""
    profiles = [_named(gimp_dir)] if gimp_dir else find_profiles()
    if not profiles:
        raise Failure(NO_GIMP)
    with _lock():
        python = str(environment.for_machine())
        for profile in profiles:
            if profile.gimp and not profile.folder.exists():
                print(f"First start of GIMP {profile.gimp.version}, for its profile …", flush=True)
                doctor.start(profile.gimp, profile.folder)
            payload.install(profile.folder, python)
            version = payload.version(payload.plugin_folder(profile.folder))
            print(f"Installed Dimilinks {version} in {profile.folder}.", flush=True)
        _note({*_noted(), *(profile.folder for profile in profiles)})
        _prune()
    for profile in profiles:
        if not profile.gimp:
            print("There is no GIMP here that reads this profile, so it was not tried.")
            continue
        print(f"Starting GIMP {profile.gimp.version} once, to see that it lists it …", flush=True)
        if not doctor.lists_procedure(profile.gimp, profile.folder)[0]:
            raise Failure(
                f"GIMP {profile.gimp.version} does not list {doctor.PROCEDURE}; "
                f"this tells more: {_command('doctor', gimp_dir)}"
            )
        print(f"It does: look under Filters ▸ Dimilinks. (Procedure {doctor.PROCEDURE})")
    return 0


def show() -> int:
    """Print the GIMPs, the profiles, and what is installed in them."""
    gimps = machine_gimps()
    for gimp in gimps:
        print(f"GIMP {gimp.version}: {gimp.console}")
    if not gimps:
        print("GIMP 3: none found on this machine")
    for profile in _all_profiles():
        if payload.is_installed(profile.folder):
            state = f"Dimilinks {payload.version(payload.plugin_folder(profile.folder))}"
        else:
            state = "not installed"
        print(f"profile {profile.folder}: {state}")
    return 0


def uninstall(gimp_dir: Path | None) -> int:
    """Remove the plug-in from the profiles, and the worker's environment with the last of them."""
    with _lock():
        for profile in [_named(gimp_dir)] if gimp_dir else _all_profiles():
            if payload.uninstall(profile.folder):
                print(f"Removed Dimilinks from {profile.folder}.")
            else:
                print(f"Not installed in {profile.folder}.")
        _note(set(_noted()))
        _prune()
        if not _noted():
            remove(environment.environments_folder())
    with contextlib.suppress(OSError):
        data_folder().rmdir()
    if jobs_folder().is_dir():
        print(f"Key, settings and jobs were kept: {jobs_folder()}")
    return 0


def examine(gimp_dir: Path | None) -> int:
    """The command `doctor`: print every check; 1 if anything is wrong."""
    profiles = [_named(gimp_dir)] if gimp_dir else _all_profiles()
    if not profiles:
        raise Failure(NO_GIMP)
    wrong = 0
    for profile in profiles:
        print(f"{profile.folder} ({_reader(profile)})")
        for finding in doctor.examine(profile, _command("install", gimp_dir)):
            print(finding, flush=True)
            wrong += bool(finding.remedy)
    print(
        f"{wrong} {'thing is' if wrong == 1 else 'things are'} wrong." if wrong else "All is well."
    )
    return 1 if wrong else 0


def _reader(profile: Profile) -> str:
    return f"GIMP {profile.gimp.version}" if profile.gimp else "no GIMP here reads it"


def _command(name: str, gimp_dir: Path | None) -> str:
    option = f" --gimp-dir {shlex.quote(str(gimp_dir))}" if gimp_dir else ""
    return f"python3 -m installer {name}{option}"


def _named(gimp_dir: Path) -> Profile:
    folder = gimp_dir.expanduser().absolute()
    return Profile(folder, gimp_for(folder))


def _all_profiles() -> list[Profile]:
    """The user's profiles, and the others that the plug-in was installed into."""
    found = find_profiles()
    known = {profile.folder for profile in found}
    return found + [_named(folder) for folder in _noted() if folder not in known]


# Profiles named by hand can't be found again, and the environment must outlive the last of them.


def _list_file() -> Path:
    return data_folder() / "profiles.txt"


def _lock() -> contextlib.AbstractContextManager[None]:
    make_data_folder()
    return locked(
        environment.environments_folder() / "install.lock",
        waiting="Waiting for another installer …",
    )


def _noted() -> list[Path]:
    """The profiles noted so far that have the plug-in."""
    try:
        lines = _list_file().read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    return [Path(line) for line in lines if payload.is_installed(Path(line))]


def _note(folders: set[Path]) -> None:
    if folders:
        text = "".join(f"{folder}\n" for folder in sorted(folders))
        _list_file().write_text(text, encoding="utf-8")
    else:
        remove(_list_file())


def _prune() -> None:
    """Remove environments that no profile's worker uses any more."""
    used = {payload.worker_python(folder) for folder in _noted()}
    current = environment.current()
    for folder in environment.environments_folder().glob("py*"):
        if folder.is_dir() and folder != current and str(folder / "bin/python") not in used:
            remove(folder)
            remove(folder.with_name(f"{folder.name}.lock"))
