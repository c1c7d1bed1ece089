"""Create the worker's environment: a venv with pinned, hash-checked packages.

The environment is created without pip. Any available pip then installs the packages from outside.
So neither Debian's python3-venv nor python3-pip is needed, and the environment may be for an
interpreter of another version, such as that of a GIMP in the cache folder.
"""

from __future__ import annotations

import ast
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
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from . import durable, programs
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
from .launch import INSIDE_PATH, command_line
from .profiles import SNAP, Gimp
from .progress import CommandFailed, run_with_progress

REQUIREMENTS = Path(__file__).with_name("requirements.txt")
PIP = Path(__file__).with_name("pip.txt")
"""The requirements of pip itself, which a folder of wheels includes for machines without pip."""
IMPORTS = "import cv2, filelock, keyring, multipart, numpy, PIL.Image, requests"
IN_USE = "in-use.lock"
"""The lock file of an environment. Each worker holds a shared lock on it while it runs."""
_VERSION = f"{sys.version_info.major}.{sys.version_info.minor}"
_PYTHON = Path("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
# The folder of the environments in a private GIMP's folder tree.
INSIDE = Path("/opt/dimilinks-gimp")


def environments_folder() -> Path:
    return data_folder() / "environments"


def environments_folders() -> list[Path]:
    """Return all folders of environments: the machine's, and the one for GIMP's Snap."""
    return [environments_folder(), _snap_folder()]


def _snap_folder() -> Path:
    """Return the folder of the environments for GIMP's Snap.

    A snap can't access hidden folders in the home folder, except its own. Updates of the snap keep
    this one.
    """
    return Path.home() / "snap/gimp/common" / NAME / "environments"


def _name(version: str, requirements: Path) -> str:
    return f"py{version}-{hashlib.sha256(requirements.read_bytes()).hexdigest()[:12]}"


@dataclass(frozen=True)
class Target:
    """An environment for the Python of a certain GIMP, which may not exist yet.

    `folder` is its path for the installer, `inside` its path for GIMP's plug-ins. `maker` is the
    Python that creates it. `run` takes a command that is to run where GIMP runs, and returns the
    command line that runs it from here.
    """

    version: str
    folder: Path
    inside: Path
    maker: str
    run: Callable[[list[str]], list[str]]

    @property
    def python(self) -> str:
        """The path of its interpreter for the plug-in."""
        return str(self.inside / _PYTHON)

    def works(self) -> bool:
        """Return whether the environment exists and can import the worker's packages."""
        return (self.folder / _PYTHON).is_symlink() and _runs(self.run([self.python]))


def python_in(folder: Path) -> Path:
    """Return the interpreter of the environment in `folder`."""
    return folder / _PYTHON


def current() -> Path:
    """Return the folder of the environment for this version of Python and the requirements."""
    return environments_folder() / _name(_VERSION, REQUIREMENTS)


def for_machine(wheels: Path | None = None) -> Path:
    """Return the worker's interpreter for this machine, and create its environment if needed.

    The packages come from the folder `wheels`, or else from the network. Raises Failure.
    """
    make_data_folder()
    return _for_machine(current(), REQUIREMENTS, wheels)


def for_tests(requirements: Path) -> Path:
    """Return an interpreter with the packages of `requirements`, and create it if needed.

    The worker's packages must be among them. Raises Failure.
    """
    return _for_machine(cache_folder() / _name(_VERSION, requirements), requirements, None)


def check_python() -> None:
    """Raise Failure if this Python can't create an environment that GIMP's plug-in can use."""
    if sysconfig.get_platform().startswith("mingw"):
        why = "belongs to MSYS2, for which there are no ready packages"
    elif "WindowsApps" in Path(sys.base_prefix).parts:
        # Windows redirects the files that it writes to AppData into a folder of its package.
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
        return runs(str(place / _PYTHON))

    def make(place: Path) -> None:
        _make_venv(place)
        _clear(place)
        _fill(place, _VERSION, [], requirements, wheels)
        _step(_compile(str(place), str(folder)))

    _ensure(folder, works, make)
    return folder / _PYTHON


def _make_venv(place: Path) -> None:
    """Create an environment without packages in the empty folder `place`. Raises CommandFailed.

    venv writes the path that it is given into files, and fails if the path is not UTF-8. So the
    environment is created in a temporary folder and then copied.
    """
    with tempfile.TemporaryDirectory(prefix="dimilinks-gimp-") as temporary:
        made = Path(temporary) / "venv"
        _step([sys.executable, "-m", "venv", "--without-pip", str(made)])
        shutil.copytree(made, place, symlinks=True, dirs_exist_ok=True)


def in_sandbox(gimp: Gimp) -> Target:
    """Return the environment for a GIMP from Flatpak or Snap, which uses the Python inside.

    Raises Failure if that Python doesn't run.
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
        # Start the command with Python, the only program that certainly exists inside.
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
    """Return the worker's interpreter for `gimp`, and create its environment if needed.

    The path is the one for GIMP's plug-ins. The packages come from the folder `wheels`, or else
    from the network; a private GIMP always uses the network. Raises Failure.
    """
    if gimp.root is not None:
        target = _in_tree(gimp, gimp.root)
        # That the folder exists is enough: nothing upgrades the tree's Python, which could break
        # the environment.
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
    """Create the environment of `target` in `place`, which the caller then renames.

    pip runs here, and installs the packages for the interpreter of `target`.
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
    """Return pip's options for CPython `version` on this machine's Linux."""
    flags = ["--python-version", version, "--implementation", "cp"]
    # pip would check Requires-Python against its own interpreter. The wheels' tags are enough.
    flags.append("--ignore-requires-python")
    for tag in ("manylinux_2_28", "manylinux_2_17", "manylinux2014"):
        flags += ["--platform", f"{tag}_{platform.machine()}"]
    return flags


def download(folder: Path, version: str | None) -> None:
    """Download the wheels of all packages, and of pip, into `folder`.

    They are for Python `version`, by default this one's. Raises Failure.
    """
    folder.mkdir(parents=True, exist_ok=True)
    text = REQUIREMENTS.read_text(encoding="utf-8")
    flags = []
    if version not in (None, _VERSION):
        text = requirements_for(version, text)
        flags = _linux_flags(version)
    with tempfile.TemporaryDirectory(prefix="dimilinks-gimp-") as temporary, _pip(None) as pip:
        fitting = Path(temporary) / "requirements.txt"
        fitting.write_text(text, encoding="utf-8")
        lists = ["--requirement", str(fitting), "--requirement", str(PIP)]
        try:
            command = [*pip, "download", *_STRICT, *lists, "--dest", str(folder), *flags]
            run_with_progress(command, _pip_environ(_pip_settings(pip, "download")))
        except CommandFailed as error:
            raise Failure(f"The packages could not be fetched: {error}. {_NETWORK}") from error


def runs(python: str) -> bool:
    """Return whether this interpreter runs and can import the worker's packages."""
    return _runs([python])


def _runs(python: list[str]) -> bool:
    try:
        return programs.run([*python, "-c", IMPORTS]).returncode == 0
    except OSError:
        return False


def requirements_for(version: str, text: str) -> str:
    """Return the requirements in `text` that apply to Python `version`, without markers.

    pip would evaluate the markers for its own interpreter, not for the one it installs for. Raises
    ValueError if a marker is not supported.
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

    A marker is, for example, `python_full_version < '3.12' and sys_platform == 'linux'`. Apart from
    the version, the target is the same as here: it runs on this machine, and is a CPython. Raises
    ValueError for markers of a kind that the pinned requirements don't have.
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
    """Remove the activation scripts for shells, which contain the path of a temporary folder."""
    for script in (place / _PYTHON.parent).glob("[Aa]ctivate*"):
        remove(script)


def _compile(place: str, final: str) -> list[str]:
    """Return the command that compiles the packages in `place` to bytecode.

    The bytecode contains the paths that the packages will have in the folder `final`.
    """
    compiler = [str(Path(place) / _PYTHON), "-m", "compileall", "-q"]
    return [*compiler, "-s", place, "-p", final, str(Path(place) / "lib")]


def _step(command: list[str]) -> None:
    """Run a short command. If it fails, show its output and raise CommandFailed."""
    done = programs.run(command)
    if done.returncode:
        say(done.stdout + done.stderr)
        raise CommandFailed(f"{Path(command[0]).name} ended with code {done.returncode}")


def _site(place: Path, version: str) -> Path:
    if sys.platform == "win32":
        return place / "Lib" / "site-packages"
    return place / "lib" / f"python{version}" / "site-packages"


def _ensure(folder: Path, works: Callable[[Path], bool], make: Callable[[Path], None]) -> None:
    """Create the environment `folder` with `make`, unless it exists and works.

    It is created under a temporary name and renamed when it is complete. Raises Failure if that
    fails, or if the new environment doesn't work.
    """
    lock = folder.parent / f"{folder.name}.lock"
    with locked(lock, waiting=f"Waiting for another run that makes {folder} …"):
        if works(folder):
            return
        leftovers = [*folder.parent.glob(f"{folder.name}.partial-*"), *_all_gone(folder)]
        for leftover in leftovers:
            # The pip of a killed run may still be writing there. The next run removes the rest.
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
    """Rename the environment `fresh` to `folder`, replacing a broken one. Raises Failure.

    Workers that started before the old one broke continue with the packages of the new one, which
    are the same.
    """
    gone = _gone(folder)
    try:
        if folder.exists():
            with contextlib.suppress(FileNotFoundError):
                # Those workers hold this file, so the new environment counts as in use, too.
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
    """Remove an environment unless a worker uses it.

    Returns "" if it was removed, or else the reason why not.
    """
    try:
        with contextlib.ExitStack() as stack:
            if sys.platform != "win32":
                # Windows needs no lock: it doesn't rename a folder in which a file is open.
                lock = folder / IN_USE
                if not stack.enter_context(locked_now(lock)):
                    numbers = ", ".join(map(str, holders(lock)))
                    return "Dimilinks is at work there" + (
                        f" (process {numbers})" if numbers else ""
                    )
            # Rename it first, so that a worker that starts now never finds half of it.
            gone = _gone(folder)
            folder.rename(gone)
            # The pip of a killed run may still be writing there.
            shutil.rmtree(gone, ignore_errors=True)
            return ""
    except OSError as error:
        return error.strerror or str(error)


def _gone(folder: Path) -> Path:
    """Return the name that the environment `folder` gets while it is removed."""
    return folder.with_name(f"{folder.name}.gone-{os.getpid()}")


def _all_gone(folder: Path) -> Iterator[Path]:
    """Yield what interrupted removals of the environment `folder` left behind."""
    return folder.parent.glob(f"{folder.name}.gone-*")


_STRICT = (
    "--disable-pip-version-check",
    "--no-input",
    # The pinned requirements are complete, and nothing is ever built from source.
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
    with _pip(wheels) as pip:
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
            _pip_environ(_pip_settings(pip, "install")),
        )


_WHEELS = Path("/usr/share/python-wheels")
"""The folder with pip's wheel in Debian's package python3-pip-whl."""


@contextlib.contextmanager
def _pip(wheels: Path | None) -> Iterator[list[str]]:
    """Yield the first words of a command line that runs pip. Raises Failure if there is none.

    This is the first of these that works: this Python's pip, the pip of a temporary venv, a wheel
    of pip in `wheels` or in Debian's folder, or a wheel that apt-get downloads.
    """
    if _works([sys.executable, "-m", "pip"]):
        yield [sys.executable, "-m", "pip"]
        return
    with tempfile.TemporaryDirectory(prefix="dimilinks-gimp-pip-") as temporary:
        place = Path(temporary)
        pip = [str(place / "venv" / _PYTHON), "-m", "pip"]
        programs.run([sys.executable, "-m", "venv", str(place / "venv")])
        if not _works(pip):
            near = [folder for folder in (wheels, _WHEELS) if folder]
            found = [path for folder in near for path in sorted(folder.glob("pip-*.whl"))]
            pip = [sys.executable, str((found[0] if found else _debian_wheel(place)) / "pip")]
        yield pip


_PIP_KEPT = (
    *("index-url", "pypi-url", "extra-index-url", "no-index", "find-links"),
    *("proxy", "cert", "client-cert", "trusted-host", "keyring-provider"),
    *("timeout", "default-timeout", "retries", "resume-retries", "cache-dir", "no-cache-dir"),
    # These decide whether pip uses the system's certificates or its own.
    *("use-feature", "use-deprecated"),
)
"""The settings of the user's pip that say where packages come from and how to connect there."""


def _pip_settings(pip: list[str], verb: str) -> dict[str, str]:
    """Return the settings in _PIP_KEPT that the user made, in variables or in pip's files.

    Other settings, such as --user, --target, constraints or builds from source, are ignored: with
    them, pip would not install what the plug-in needs. If pip can't read its files, its output is
    shown and CommandFailed is raised.
    """
    quiet = {"PIP_QUIET": "0", "PIP_VERBOSE": "0"}
    answer = programs.run([*pip, "config", "list"], {**programs.environ(), **quiet})
    if answer.returncode:
        say(answer.stdout + answer.stderr)
        raise CommandFailed("pip can't read its settings")
    found = re.findall(r"^([^.=]+)\.([\w-]+)=(['\"].*['\"])$", answer.stdout, re.MULTILINE)
    kept = {}
    # Later sections take precedence. Empty values are skipped, because pip ignores them.
    for section in ("global", verb, ":env:"):
        for its_section, name, quoted in found:
            value = ast.literal_eval(quoted)
            if its_section == section and name in _PIP_KEPT and value:
                kept[name] = value
    return kept


def _pip_environ(settings: Mapping[str, str]) -> dict[str, str]:
    """Return environment variables that give pip these settings and none of the user's others."""
    variables = {f"PIP_{name.upper().replace('-', '_')}": v for name, v in settings.items()}
    clean = {name: v for name, v in programs.environ().items() if not name.startswith("PIP_")}
    # Some versions of pip have no option for the root user action, but all accept the variable.
    own = {"PIP_CONFIG_FILE": os.devnull, "PIP_ROOT_USER_ACTION": "ignore"}
    return {**clean, **variables, **own}


def _works(pip: list[str]) -> bool:
    try:
        return programs.run([*pip, "--version"], _pip_environ({})).returncode == 0
    except OSError:
        return False


def _debian_wheel(place: Path) -> Path:
    """Download Debian's package python3-pip-whl, unpack it in `place`, and return pip's wheel.

    Raises Failure if there is no apt-get, or if it can't download the package.
    """
    if not shutil.which("apt-get"):
        raise Failure(
            f"{sys.executable} has no pip and no ensurepip, which fetch the worker's packages. "
            "Install pip for it (your system's package python3-pip) and try again, or name a "
            "folder of packages with --wheels."
        )
    say("Python has no pip here; fetching Debian's package python3-pip-whl …")
    place.chmod(0o755)
    download = ["apt-get", "download", "python3-pip-whl"]
    fetched = programs.run(download, cwd=place)
    if fetched.returncode and os.geteuid() == 0:
        with contextlib.suppress(CommandFailed):
            run_with_progress(["apt-get", "update"])
        fetched = programs.run(download, cwd=place)
    for package in place.glob("python3-pip-whl*.deb"):
        programs.run(["dpkg-deb", "-x", str(package), str(place)])
    wheels = sorted(place.glob("usr/share/python-wheels/pip-*.whl"))
    if not wheels:
        raise Failure(
            f"{sys.executable} has no pip, and apt could not fetch one. "
            "Install the package python3-pip (as root: apt-get install python3-pip) and try again."
        )
    return wheels[-1]
