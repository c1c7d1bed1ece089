"""The worker's environment: a venv with pinned, hash-checked packages.

It is made without pip in it and filled from outside by whatever pip there is. That needs neither
Debian's python3-venv nor python3-pip, and serves an interpreter of another version as well (the
one beside a GIMP in the cache).
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
"""What a folder of wheels has besides, for machines without pip."""
IMPORTS = "import cv2, filelock, keyring, multipart, numpy, PIL.Image, requests"
IN_USE = "in-use.lock"
"""Each worker holds this file of its environment, shared, for as long as it runs."""
_VERSION = f"{sys.version_info.major}.{sys.version_info.minor}"
_PYTHON = Path("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
# Where it lies in a GIMP's folder tree.
INSIDE = Path("/opt/dimilinks-gimp")


def environments_folder() -> Path:
    return data_folder() / "environments"


def environments_folders() -> list[Path]:
    """All folders with environments: that of the machine, and what a snap can see."""
    return [environments_folder(), _snap_folder()]


def _snap_folder() -> Path:
    """Of the home, a snap sees no hidden folders but its own; this one is kept at its updates."""
    return Path.home() / "snap/gimp/common" / NAME / "environments"


def _name(version: str, requirements: Path) -> str:
    return f"py{version}-{hashlib.sha256(requirements.read_bytes()).hexdigest()[:12]}"


@dataclass(frozen=True)
class Target:
    """An environment, made or not, and the interpreter that it is for.

    `folder` is where it lies as seen from here, `inside` as seen by what runs in it. `run` turns
    a command of its world into one of ours.
    """

    version: str
    folder: Path
    inside: Path
    maker: str
    run: Callable[[list[str]], list[str]]

    @property
    def python(self) -> str:
        """Its interpreter, as the plug-in starts it."""
        return str(self.inside / _PYTHON)

    def works(self) -> bool:
        """Whether it is there and has the worker's packages."""
        return (self.folder / _PYTHON).is_symlink() and _runs(self.run([self.python]))


def python_in(folder: Path) -> Path:
    """The interpreter of the environment in `folder`."""
    return folder / _PYTHON


def current() -> Path:
    """The environment that this python and these requirements call for."""
    return environments_folder() / _name(_VERSION, REQUIREMENTS)


def for_machine(wheels: Path | None = None) -> Path:
    """The worker's interpreter for this machine; the environment is made if need be.

    `wheels`: a folder with all packages, instead of the network. Raises Failure.
    """
    make_data_folder()
    return _for_machine(current(), REQUIREMENTS, wheels)


def for_tests(requirements: Path) -> Path:
    """An interpreter with these packages, the worker's among them; made if need be."""
    return _for_machine(cache_folder() / _name(_VERSION, requirements), requirements, None)


def check_python() -> None:
    """Raise Failure if this Python can't make an environment that others can use."""
    if sysconfig.get_platform().startswith("mingw"):
        why = "belongs to MSYS2, for which there are no ready packages"
    elif "WindowsApps" in Path(sys.base_prefix).parts:
        # Windows redirects what a packaged program writes to AppData into the package's own folder.
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
    """Make an environment without packages in the empty folder `place`.

    It is made elsewhere and copied: venv writes down the path that it was given, and can't write
    one that is not UTF-8. Raises CommandFailed.
    """
    with tempfile.TemporaryDirectory(prefix="dimilinks-gimp-") as temporary:
        made = Path(temporary) / "venv"
        _step([sys.executable, "-m", "venv", "--without-pip", str(made)])
        shutil.copytree(made, place, symlinks=True, dirs_exist_ok=True)


def in_sandbox(gimp: Gimp) -> Target:
    """The environment for a GIMP in a sandbox, of that sandbox's own Python. Raises Failure."""
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
        # Its interpreter is the one command that is sure to be found inside.
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
    """The worker's interpreter where this GIMP lives; the environment is made if need be."""
    if gimp.root is not None:
        target = _in_tree(gimp, gimp.root)
        # It can't be broken by an upgrade of the interpreter: nothing upgrades the tree.
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
    """Make it in `place`, which will be renamed: pip runs here, for the interpreter over there."""
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
    """What has pip choose wheels for another Python of this machine's Linux."""
    flags = ["--python-version", version, "--implementation", "cp"]
    # pip would compare with the interpreter that it runs with; the wheels' tags say it all.
    flags.append("--ignore-requires-python")
    for tag in ("manylinux_2_28", "manylinux_2_17", "manylinux2014"):
        flags += ["--platform", f"{tag}_{platform.machine()}"]
    return flags


def download(folder: Path, version: str | None) -> None:
    """Fetch all packages into a folder, and pip, for Python `version` (None: this one).

    Raises Failure.
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
    """Whether this interpreter starts and has the worker's packages."""
    return _runs([python])


def _runs(python: list[str]) -> bool:
    try:
        return programs.run([*python, "-c", IMPORTS]).returncode == 0
    except OSError:
        return False


def requirements_for(version: str, text: str) -> str:
    """The requirements that apply to Python `version`, without markers.

    pip judges markers by the interpreter that it runs with, not by the one that it installs for.
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
    """Whether a marker such as `python_full_version < '3.12' and sys_platform == 'linux'` holds.

    All but the version is this machine's: the target lives on it, with a CPython too. Raises
    ValueError for what the pinned list has never had.
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
    """Remove the scripts for shells: they name the temporary folder."""
    for script in (place / _PYTHON.parent).glob("[Aa]ctivate*"):
        remove(script)


def _compile(place: str, final: str) -> list[str]:
    """The command that compiles the packages ahead, for the place that they will lie in."""
    compiler = [str(Path(place) / _PYTHON), "-m", "compileall", "-q"]
    return [*compiler, "-s", place, "-p", final, str(Path(place) / "lib")]


def _step(command: list[str]) -> None:
    """Run a short step. Raises CommandFailed, after showing its output, if it fails."""
    done = programs.run(command)
    if done.returncode:
        say(done.stdout + done.stderr)
        raise CommandFailed(f"{Path(command[0]).name} ended with code {done.returncode}")


def _site(place: Path, version: str) -> Path:
    if sys.platform == "win32":
        return place / "Lib" / "site-packages"
    return place / "lib" / f"python{version}" / "site-packages"


def _ensure(folder: Path, works: Callable[[Path], bool], make: Callable[[Path], None]) -> None:
    """Have `folder` made under a temporary name and renamed, unless it is there and works."""
    lock = folder.parent / f"{folder.name}.lock"
    with locked(lock, waiting=f"Waiting for another run that makes {folder} …"):
        if works(folder):
            return
        leftovers = [*folder.parent.glob(f"{folder.name}.partial-*"), *_all_gone(folder)]
        for leftover in leftovers:
            # The pip of a run that was killed may still be writing there: the next run gets it.
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
    """Rename the environment `fresh` to `folder`, in the place of a broken one. Raises Failure.

    Workers that started before it broke go on with the packages of the new one, which are the same.
    """
    gone = _gone(folder)
    try:
        if folder.exists():
            with contextlib.suppress(FileNotFoundError):
                # With it the new one is in use, too.
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
    """Remove an environment unless a worker is in it; "" if it is gone, else why it is not."""
    try:
        with contextlib.ExitStack() as stack:
            if sys.platform != "win32":
                # Windows doesn't rename a folder in which a file is open.
                lock = folder / IN_USE
                if not stack.enter_context(locked_now(lock)):
                    numbers = ", ".join(map(str, holders(lock)))
                    return "Dimilinks is at work there" + (
                        f" (process {numbers})" if numbers else ""
                    )
            # In one step: a worker that starts now finds no environment, not half of one.
            gone = _gone(folder)
            folder.rename(gone)
            # The pip of a run that was killed may still be writing there.
            shutil.rmtree(gone, ignore_errors=True)
            return ""
    except OSError as error:
        return error.strerror or str(error)


def _gone(folder: Path) -> Path:
    """The name for an environment that is being removed."""
    return folder.with_name(f"{folder.name}.gone-{os.getpid()}")


def _all_gone(folder: Path) -> Iterator[Path]:
    """What is left of it where a removal was killed."""
    return folder.parent.glob(f"{folder.name}.gone-*")


_STRICT = (
    "--disable-pip-version-check",
    "--no-input",
    # The list is complete, and nothing is ever built here.
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
"""Where Debian's package python3-pip-whl puts its wheel of pip."""


@contextlib.contextmanager
def _pip(wheels: Path | None) -> Iterator[list[str]]:
    """The start of a command line that runs some pip of this machine, or of the folder `wheels`."""
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
    # By these pip is told to use the system's certificates, or its own as before.
    *("use-feature", "use-deprecated"),
)
"""The user's settings of pip that say where packages come from, and how to get there."""


def _pip_settings(pip: list[str], verb: str) -> dict[str, str]:
    """Those of _PIP_KEPT that the user has set, in variables or in pip's files.

    The others are left alone on purpose: an installation for the user, into another folder, only
    in a virtual environment, by constraints, from sources and so on would not become what the
    plug-in needs. Raises CommandFailed, after showing pip's words, if its files can't be read.
    """
    quiet = {"PIP_QUIET": "0", "PIP_VERBOSE": "0"}
    answer = programs.run([*pip, "config", "list"], {**programs.environ(), **quiet})
    if answer.returncode:
        say(answer.stdout + answer.stderr)
        raise CommandFailed("pip can't read its settings")
    found = re.findall(r"^([^.=]+)\.([\w-]+)=(['\"].*['\"])$", answer.stdout, re.MULTILINE)
    kept = {}
    # The later ones win. pip itself ignores empty ones.
    for section in ("global", verb, ":env:"):
        for its_section, name, quoted in found:
            value = ast.literal_eval(quoted)
            if its_section == section and name in _PIP_KEPT and value:
                kept[name] = value
    return kept


def _pip_environ(settings: Mapping[str, str]) -> dict[str, str]:
    """The environment of a pip that knows these settings and no others of the user's."""
    variables = {f"PIP_{name.upper().replace('-', '_')}": v for name, v in settings.items()}
    clean = {name: v for name, v in programs.environ().items() if not name.startswith("PIP_")}
    # The last is a variable, as not every pip knows it as an option.
    own = {"PIP_CONFIG_FILE": os.devnull, "PIP_ROOT_USER_ACTION": "ignore"}
    return {**clean, **variables, **own}


def _works(pip: list[str]) -> bool:
    try:
        return programs.run([*pip, "--version"], _pip_environ({})).returncode == 0
    except OSError:
        return False


def _debian_wheel(place: Path) -> Path:
    """The pip wheel that Debian's package python3-pip-whl carries, unpacked into `place`."""
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
