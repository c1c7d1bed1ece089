"""Create the worker's environment: a venv with packages of fixed versions and hashes.

The installer creates the environment without pip, and then lets a pip from elsewhere (see pips.py)
install the packages into it. So the machine needs neither Debian's python3-venv nor python3-pip.
For the same reason, the environment can be for another version of Python than the one that runs the
installer, such as the Python of a GIMP in the cache folder.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from . import durable, pips, programs
from .folders import (
    NAME,
    Failure,
    cache_folder,
    data_folder,
    holders,
    locked,
    locked_now,
    make_data_folder,
    remove,
    say,
)
from .gimps import SNAP, Gimp
from .inside import INSIDE_PATH, command_line
from .programs import VENV_PYTHON, CommandFailed, run_with_progress

REQUIREMENTS = Path(__file__).with_name("requirements.txt")
PIP = Path(__file__).with_name("pip.txt")
"""The requirements file for pip itself.

The command `wheels` downloads pip along with the packages, for machines that have no pip.
"""
IMPORTS = "import cv2, filelock, keyring, multipart, numpy, PIL.Image, requests"
IN_USE = "in-use.lock"
"""The lock file of an environment. Each running worker holds a shared lock on this file."""
_VERSION = f"{sys.version_info.major}.{sys.version_info.minor}"
# The folder that contains the environments inside a private GIMP's folder tree.
INSIDE = Path("/opt/dimilinks-gimp")


def environments_folder() -> Path:
    return data_folder() / "environments"


def environments_folders() -> list[Path]:
    """Return the two folders that contain environments: the machine's and that for GIMP's Snap."""
    return [environments_folder(), _snap_folder()]


def _snap_folder() -> Path:
    """Return the folder that contains the environments for GIMP's Snap.

    A snap can't access hidden folders in the home folder, such as the data folder in ~/.local. An
    update of the snap keeps the returned folder.
    """
    return Path.home() / "snap/gimp/common" / NAME / "environments"


def _name(version: str, requirements: Path) -> str:
    return f"py{version}-{hashlib.sha256(requirements.read_bytes()).hexdigest()[:12]}"


@dataclass(frozen=True)
class Target:
    """An environment for the Python in a Flatpak, a Snap or a private GIMP's folder tree.

    The environment need not exist yet.

    `version` is the version of that Python, such as "3.13". `folder` is the path of the environment
    for the installer, and `inside` is the path of the same folder for GIMP's plug-ins. `maker` is
    the Python that creates the environment. The function `run` takes a command that is to run where
    GIMP runs, and returns the command line with which the installer starts this command.
    """

    version: str
    folder: Path
    inside: Path
    maker: str
    run: Callable[[list[str]], list[str]]

    @property
    def python(self) -> str:
        """The path of the environment's interpreter, as GIMP's plug-ins see it."""
        return str(self.inside / VENV_PYTHON)

    def works(self) -> bool:
        """Return whether the environment exists and can import the worker's packages."""
        return (self.folder / VENV_PYTHON).is_symlink() and _runs(self.run([self.python]))


def python_in(folder: Path) -> Path:
    """Return the interpreter of the environment in `folder`."""
    return folder / VENV_PYTHON


def current() -> Path:
    """Return the folder of the machine's current environment.

    The folder is named after the version of this Python and a hash of the requirements, so that a
    change of either leads to a new environment.
    """
    return environments_folder() / _name(_VERSION, REQUIREMENTS)


def for_machine(wheels: Path | None = None) -> Path:
    """Return the worker's interpreter for this machine, after creating its environment if needed.

    pip takes the packages from the folder `wheels`, or from the network if `wheels` is None. Raises
    Failure.
    """
    make_data_folder()
    return _for_machine(current(), REQUIREMENTS, wheels)


def for_tests(requirements: Path) -> Path:
    """Return an interpreter for the tests, after creating its environment if needed.

    The environment has the packages in the file `requirements`, which must include the worker's
    packages. Raises Failure.
    """
    return _for_machine(cache_folder() / _name(_VERSION, requirements), requirements, None)


def check_python() -> None:
    """Raise Failure if this Python can't create an environment that GIMP's plug-in can use."""
    if sysconfig.get_platform().startswith("mingw"):
        why = "belongs to MSYS2, for which there are no ready packages"
    elif "WindowsApps" in Path(sys.base_prefix).parts:
        # Windows redirects the files that this Python writes to AppData into a folder of the
        # package from the Store, where GIMP doesn't look for them.
        why = "is from the Microsoft Store: Windows hides from GIMP what it writes"
    elif re.search("[\ud800-\udfff]", sys.base_prefix):
        raise Failure(
            f"{sys.executable} lies in a folder whose name is not UTF-8, which an environment "
            "can't refer to. Run the installer with a Python in another folder."
        )
    else:
        return
    raise Failure(
        f"{sys.executable} {why}. Install Python from python.org, and run the installer with that."
    )


def _for_machine(folder: Path, requirements: Path, wheels: Path | None) -> Path:
    check_python()

    def works(place: Path) -> bool:
        return runs(str(place / VENV_PYTHON))

    def make(place: Path) -> None:
        _make_venv(place)
        _clear(place)
        _fill(place, _VERSION, [], requirements, wheels)
        _step(_compile(str(place), str(folder)))

    _ensure(folder, works, make)
    return folder / VENV_PYTHON


def _make_venv(place: Path) -> None:
    """Create an environment without packages in the empty folder `place`. Raises CommandFailed.

    venv writes the path of the environment into files, and fails if that path is not valid UTF-8.
    So this function creates the environment in a temporary folder and then copies it to `place`.
    """
    with tempfile.TemporaryDirectory(prefix="dimilinks-gimp-") as temporary:
        made = Path(temporary) / "venv"
        _step([sys.executable, "-m", "venv", "--without-pip", str(made)])
        shutil.copytree(made, place, symlinks=True, dirs_exist_ok=True)


def in_sandbox(gimp: Gimp) -> Target:
    """Return the environment for a GIMP from Flatpak or Snap.

    The environment is for the Python inside the Flatpak or Snap, because GIMP's plug-ins can't use
    the machine's. Raises Failure if the Python inside doesn't run.
    """
    code = "import sys; print('%d.%d' % sys.version_info[:2])"
    try:
        answer = programs.run(gimp.python("-c", code), timeout=60)
        version = answer.stdout.strip()
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Failure(f"The Python of the {gimp.kind} can't be started: {error}.") from error
    if not re.fullmatch(r"3\.\d+", version):
        raise Failure(f"The Python of the {gimp.kind} does not run: {answer.stderr.strip()}")
    parent = _snap_folder() if gimp.kind == SNAP else environments_folder()
    folder = parent / f"{gimp.place}-{_name(version, REQUIREMENTS)}"

    def run(command: list[str]) -> list[str]:
        # Let Python start the command, because no other program certainly exists inside the Flatpak
        # or Snap.
        code = "import os, sys; os.execvp(sys.argv[1], sys.argv[1:])"
        return gimp.python("-c", code, *command)

    return Target(version, folder, folder, "python3", run)


def _in_tree(gimp: Gimp, root: Path) -> Target:
    version = (root / "usr/bin/python3").readlink().name.removeprefix("python")
    inside = INSIDE / _name(version, REQUIREMENTS)
    return Target(
        version,
        root / inside.relative_to("/"),
        inside,
        "/usr/bin/python3",
        lambda command: command_line(
            gimp, ["env", "-i", f"PATH={INSIDE_PATH}", *command], {}, cwd=Path("/")
        ),
    )


def for_gimp(gimp: Gimp, wheels: Path | None = None) -> str:
    """Return the worker's interpreter for `gimp`, after creating its environment if needed.

    The returned path is the one that GIMP's plug-ins see. pip takes the packages from the folder
    `wheels`, or from the network if `wheels` is None. For a GIMP in a folder tree, pip always uses
    the network. Raises Failure.
    """
    if gimp.root is not None:
        target = _in_tree(gimp, gimp.root)
        # Check only that the environment's folder exists. The environment always works, because
        # only an upgrade of the tree's Python could break it, and nothing upgrades that Python.
        _ensure(target.folder, lambda place: place.is_dir(), lambda place: _make(target, place))
        return target.python
    if not gimp.place:
        return str(for_machine(wheels))
    make_data_folder()
    target = in_sandbox(gimp)

    def works(place: Path) -> bool:
        return place == target.folder and target.works()

    _ensure(target.folder, works, lambda place: _make(target, place, wheels))
    return target.python


def _make(target: Target, place: Path, wheels: Path | None = None) -> None:
    """Create the environment of `target` in the folder `place`, which the caller then renames.

    venv runs where GIMP runs. pip runs on the machine, and is told to install the packages for the
    Python version of `target`.
    """
    there = target.inside.with_name(place.name)
    _step(target.run([target.maker, "-m", "venv", "--without-pip", str(there)]))
    _clear(place)
    with tempfile.TemporaryDirectory(prefix="dimilinks-gimp-") as temporary:
        fitting = Path(temporary) / "requirements.txt"
        text = requirements_for(target.version, REQUIREMENTS.read_text(encoding="utf-8"))
        fitting.write_text(text, encoding="utf-8")
        _fill(place, target.version, _linux_flags(target.version), fitting, wheels)
    _step(target.run(_compile(str(there), str(target.inside))))


def _linux_flags(version: str) -> list[str]:
    """Return the options that let pip choose packages for CPython `version` on this Linux."""
    flags = ["--python-version", version, "--implementation", "cp"]
    # Without this option, pip compares the packages' Requires-Python with the Python that runs pip.
    # The tags in the names of the wheels are enough to choose the right packages.
    flags.append("--ignore-requires-python")
    for tag in ("manylinux_2_28", "manylinux_2_17", "manylinux2014"):
        flags += ["--platform", f"{tag}_{platform.machine()}"]
    return flags


def download(folder: Path, version: str | None) -> None:
    """Download the wheels (the package files) of all packages, and of pip, into `folder`.

    The wheels are for Python `version`, by default for the version of this Python. Raises Failure.
    """
    folder.mkdir(parents=True, exist_ok=True)
    text = REQUIREMENTS.read_text(encoding="utf-8")
    flags = []
    if version not in (None, _VERSION):
        text = requirements_for(version, text)
        flags = _linux_flags(version)
    with (
        tempfile.TemporaryDirectory(prefix="dimilinks-gimp-") as temporary,
        pips.found(None) as pip,
    ):
        fitting = Path(temporary) / "requirements.txt"
        fitting.write_text(text, encoding="utf-8")
        lists = ["--requirement", str(fitting), "--requirement", str(PIP)]
        try:
            command = [*pip, "download", *_STRICT, *lists, "--dest", str(folder), *flags]
            run_with_progress(command, pips.environ(pips.settings(pip, "download")))
        except CommandFailed as error:
            raise Failure(f"The packages could not be fetched: {error}. {_NETWORK}") from error


def runs(python: str) -> bool:
    """Return whether the interpreter `python` runs and can import the worker's packages."""
    return _runs([python])


def _runs(python: list[str]) -> bool:
    try:
        return programs.run([*python, "-c", IMPORTS]).returncode == 0
    except OSError:
        return False


def requirements_for(version: str, text: str) -> str:
    """Return the requirements in `text` that apply to Python `version`, without their markers.

    A marker is the condition of a requirement. pip must not see the markers, because it would
    evaluate them for the Python that runs pip instead of Python `version`. Raises ValueError if
    `_applies` doesn't support a marker.
    """
    kept = []
    for block in re.split(r"^(?=[a-z])", text, flags=re.MULTILINE):
        head, *hashes = block.splitlines(keepends=True) or [""]
        package, separator, marker = head.rstrip("\\\n").partition(" ; ")
        if separator:
            if not _applies(marker, version):
                continue
            head = f"{package} \\\n"
        kept.append("".join([head, *hashes]))
    return "".join(kept)


def _applies(marker: str, version: str) -> bool:
    """Return whether a marker of a requirement holds for Python `version`.

    A marker is, for example, `python_full_version < '3.12' and sys_platform == 'linux'`. Everything
    but the version is taken from this machine and from CPython, because the environment is for
    these. Raises ValueError for a kind of marker that the pinned requirements don't contain.
    """
    return any(
        all(_holds(comparison, version) for comparison in alternative.split(" and "))
        for alternative in marker.split(" or ")
    )


def _holds(comparison: str, version: str) -> bool:
    match = re.fullmatch(r"\s*(\w+) (==|!=|<|>=) '([^']*)'\s*", comparison)
    if match is None:
        raise ValueError(f"unknown in {REQUIREMENTS.name}: {comparison}")
    name, sign, value = match.groups()
    if name == "python_full_version":
        own, limit = _numbers(version), _numbers(value.removesuffix(".*"))
        return {"==": own == limit, "!=": own != limit, "<": own < limit, ">=": own >= limit}[sign]
    machine = {
        "sys_platform": sys.platform,
        "platform_machine": platform.machine(),
        "implementation_name": "cpython",
        "platform_python_implementation": "CPython",
    }
    if name not in machine or sign not in ("==", "!="):
        raise ValueError(f"unknown in {REQUIREMENTS.name}: {comparison}")
    return (machine[name] == value) == (sign == "==")


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))


def _clear(place: Path) -> None:
    """Remove the shell scripts that activate the environment `place`, because they don't work.

    The scripts contain the path of the temporary folder in which the environment was created.
    """
    for script in (place / VENV_PYTHON.parent).glob("[Aa]ctivate*"):
        remove(script)


def _compile(place: str, final: str) -> list[str]:
    """Return the command that compiles the packages in the environment `place` to bytecode.

    The bytecode names the packages' paths in `final`, the folder to which `place` will be renamed.
    """
    compiler = [str(Path(place) / VENV_PYTHON), "-m", "compileall", "-q"]
    return [*compiler, "-s", place, "-p", final, str(Path(place) / "lib")]


def _step(command: list[str]) -> None:
    """Run a short command. If the command fails, show its output and raise CommandFailed."""
    done = programs.run(command)
    if done.returncode:
        say(done.stdout + done.stderr)
        raise CommandFailed(f"{Path(command[0]).name} ended with code {done.returncode}")


def _site(place: Path, version: str) -> Path:
    if sys.platform == "win32":
        return place / "Lib" / "site-packages"
    return place / "lib" / f"python{version}" / "site-packages"


def _ensure(folder: Path, works: Callable[[Path], bool], make: Callable[[Path], None]) -> None:
    """Create the environment `folder` with `make`, unless the environment exists and works.

    `works` tells whether the environment in a folder works. `make` creates the environment in a
    folder with a temporary name, which is renamed to `folder` when `make` is done. Raises Failure
    if `make` or the rename fails, or if the new environment doesn't work.
    """
    lock = folder.parent / f"{folder.name}.lock"
    with locked(lock, waiting=f"Waiting for another run that makes {folder} …"):
        if works(folder):
            return
        leftovers = [*folder.parent.glob(f"{folder.name}.partial-*"), *_all_gone(folder)]
        for leftover in leftovers:
            # Ignore errors, because the pip of a run that was killed is possibly still writing to
            # this folder. The next run removes the files that are left.
            shutil.rmtree(leftover, ignore_errors=True)
        say(f"Making the worker's environment in {folder}, once (90 MB of packages) …")
        partial = Path(tempfile.mkdtemp(prefix=f"{folder.name}.partial-", dir=folder.parent))
        try:
            partial.chmod(0o755)
            make(partial)
            durable.flush_large_tree(partial)
            _put(partial, folder)
        except CommandFailed as error:
            raise Failure(
                f"The worker's environment could not be made: {error}. Its messages are above. "
                f"What was installed before is as it was. {_NETWORK}"
            ) from error
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    if not works(folder):
        raise Failure(f"The packages in {folder} do not load on this machine.")


def _put(fresh: Path, folder: Path) -> None:
    """Rename the environment `fresh` to `folder`, and remove a broken environment that is there.

    Workers that started before the old environment broke continue with the packages of the new
    environment, because both have the same packages. Raises Failure.
    """
    gone = _gone(folder)
    try:
        if folder.exists():
            with contextlib.suppress(FileNotFoundError):
                # Keep this file, because those workers hold a lock on it: so the new environment
                # counts as in use while they run.
                (folder / IN_USE).rename(fresh / IN_USE)
            folder.rename(gone)
        fresh.rename(folder)
        durable.flush_names(folder.parent)
    except OSError as error:
        raise Failure(
            f"{folder} can't be exchanged: {error.strerror}. Close GIMP and try again."
        ) from error
    finally:
        shutil.rmtree(gone, ignore_errors=True)


def discard(folder: Path) -> str:
    """Remove the environment `folder` unless a worker uses it.

    Returns "" if the environment was removed, and otherwise the reason why it was kept.
    """
    try:
        with contextlib.ExitStack() as stack:
            if sys.platform != "win32":
                # No lock is needed on Windows, because the rename below fails there if a worker has
                # the lock file open.
                lock = folder / IN_USE
                if not stack.enter_context(locked_now(lock)):
                    numbers = ", ".join(map(str, holders(lock)))
                    return "Dimilinks is at work there" + (
                        f" (process {numbers})" if numbers else ""
                    )
            # Rename the folder first, so that a worker that starts now never finds an environment
            # from which some files are removed already.
            gone = _gone(folder)
            folder.rename(gone)
            # Ignore errors, because the pip of a run that was killed is possibly still writing to
            # this folder.
            shutil.rmtree(gone, ignore_errors=True)
            return ""
    except OSError as error:
        return error.strerror or str(error)


def _gone(folder: Path) -> Path:
    """Return the path to which the environment `folder` is renamed before its files are removed."""
    return folder.with_name(f"{folder.name}.gone-{os.getpid()}")


def _all_gone(folder: Path) -> Iterator[Path]:
    """Yield the folders that interrupted removals of the environment `folder` left behind."""
    return folder.parent.glob(f"{folder.name}.gone-*")


_STRICT = (
    "--disable-pip-version-check",
    "--no-input",
    # The pinned requirements include all dependencies, and pip must not build any from source.
    "--no-deps",
    "--only-binary=:all:",
    "--require-hashes",
)
_NETWORK = (
    "Is the network there? (A proxy is taken from the variable https_proxy. Without a network, "
    "make a folder of packages on a machine that has one, with the command wheels, and name it "
    "with --wheels.)"
)


def _fill(
    place: Path, version: str, flags: list[str], requirements: Path, wheels: Path | None
) -> None:
    offline = ["--no-index", "--find-links", str(wheels)] if wheels else []
    with pips.found(wheels) as pip:
        run_with_progress(
            [
                *pip,
                "install",
                *_STRICT,
                "--no-compile",
                "--no-warn-script-location",
                "--requirement",
                str(requirements),
                "--target",
                str(_site(place, version)),
                *offline,
                *flags,
            ],
            pips.environ(pips.settings(pip, "install")),
        )
