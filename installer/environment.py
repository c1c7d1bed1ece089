"""The worker's environment: a venv with pinned, hash-checked packages.

It is made without pip in it and filled from outside by whatever pip there is. That needs neither
Debian's python3-venv nor python3-pip, and serves an interpreter of another version as well (the
one beside a GIMP in the cache).
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
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from .folders import Failure, cache_folder, data_folder, locked, make_data_folder, remove, say
from .launch import command_line
from .profiles import Gimp
from .progress import CommandFailed, run_with_progress

REQUIREMENTS = Path(__file__).with_name("requirements.txt")
IMPORTS = "import cv2, filelock, keyring, multipart, numpy, PIL.Image, requests"
_VERSION = f"{sys.version_info.major}.{sys.version_info.minor}"
# Where it lies in a GIMP's folder tree.
INSIDE = Path("/opt/dimilinks-gimp")


def environments_folder() -> Path:
    return data_folder() / "environments"


def _name(version: str, requirements: Path) -> str:
    return f"py{version}-{hashlib.sha256(requirements.read_bytes()).hexdigest()[:12]}"


def current() -> Path:
    """The environment that this python and these requirements call for."""
    return environments_folder() / _name(_VERSION, REQUIREMENTS)


def for_machine() -> Path:
    """The worker's interpreter for this machine; the environment is made if need be."""
    make_data_folder()
    return _for_machine(current(), REQUIREMENTS)


def for_tests(requirements: Path) -> Path:
    """An interpreter with these packages, the worker's among them; made if need be."""
    return _for_machine(cache_folder() / _name(_VERSION, requirements), requirements)


def _for_machine(folder: Path, requirements: Path) -> Path:
    python = Path("bin/python")

    def works(place: Path) -> bool:
        return runs(str(place / python))

    def make(place: Path) -> None:
        _step([sys.executable, "-m", "venv", "--without-pip", str(place)])
        _clear(place)
        _fill(place, _VERSION, [], requirements)
        _step(_compile(place, folder))

    _ensure(folder, works, make)
    return folder / python


def for_gimp(gimp: Gimp) -> str:
    """The worker's interpreter where this GIMP lives; the environment is made if need be."""
    if gimp.root is None:
        return str(for_machine())
    root = gimp.root
    version = (root / "usr/bin/python3").readlink().name.removeprefix("python")
    inside = INSIDE / _name(version, REQUIREMENTS)
    folder = root / inside.relative_to("/")

    def in_tree(*command: str) -> list[str]:
        return command_line(gimp, list(command), {}, cwd=Path("/"))

    def make(place: Path) -> None:
        there = "/" + str(place.relative_to(root))
        _step(in_tree("/usr/bin/python3", "-m", "venv", "--without-pip", there))
        _clear(place)
        machine = platform.machine()
        flags = ["--python-version", version, "--implementation", "cp"]
        # pip would compare with the interpreter that it runs with; the wheels' tags say it all.
        flags.append("--ignore-requires-python")
        for tag in ("manylinux_2_28", "manylinux_2_17", "manylinux2014"):
            flags += ["--platform", f"{tag}_{machine}"]
        with tempfile.TemporaryDirectory(prefix="dimilinks-gimp-") as temporary:
            fitting = Path(temporary) / "requirements.txt"
            text = requirements_for(version, REQUIREMENTS.read_text(encoding="utf-8"))
            fitting.write_text(text, encoding="utf-8")
            _fill(place, version, flags, fitting)
        _step(in_tree(*_compile(Path(there), inside)))

    # It can't be broken by an upgrade of the interpreter: nothing upgrades the tree.
    _ensure(folder, lambda place: place.is_dir(), make)
    return str(inside / "bin/python")


def runs(python: str) -> bool:
    """Whether this interpreter starts and has the worker's packages."""
    try:
        return subprocess.run([python, "-c", IMPORTS], capture_output=True).returncode == 0
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
    for script in (place / "bin").glob("[Aa]ctivate*"):
        remove(script)


def _compile(place: Path, final: Path) -> list[str]:
    """The command that compiles the packages ahead, for the place that they will lie in."""
    compiler = [str(place / "bin/python"), "-m", "compileall", "-q"]
    return [*compiler, "-s", str(place), "-p", str(final), str(place / "lib")]


def _step(command: list[str]) -> None:
    """Run a short step. Raises CommandFailed, after showing its output, if it fails."""
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode:
        say(done.stdout + done.stderr)
        raise CommandFailed(f"{Path(command[0]).name} ended with code {done.returncode}")


def _site(place: Path, version: str) -> Path:
    return place / "lib" / f"python{version}" / "site-packages"


def _ensure(folder: Path, works: Callable[[Path], bool], make: Callable[[Path], None]) -> None:
    """Have `folder` made under a temporary name and renamed, unless it is there and works."""
    lock = folder.parent / f"{folder.name}.lock"
    with locked(lock, waiting=f"Waiting for another run that makes {folder} …"):
        if works(folder):
            return
        for leftover in folder.parent.glob(f"{folder.name}.partial-*"):
            remove(leftover)
        say(f"Making the worker's environment in {folder}, once (90 MB to fetch) …")
        partial = Path(tempfile.mkdtemp(prefix=f"{folder.name}.partial-", dir=folder.parent))
        try:
            partial.chmod(0o755)
            make(partial)
            remove(folder)
            partial.rename(folder)
        except CommandFailed as error:
            raise Failure(
                f"The worker's environment could not be made: {error}. "
                "Its messages are above; is the network there?"
            ) from error
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    if not works(folder):
        raise Failure(f"The packages in {folder} do not load on this machine.")


def _fill(place: Path, version: str, flags: list[str], requirements: Path) -> None:
    target = _site(place, version)
    with _pip() as pip:
        run_with_progress(
            [
                *pip,
                "install",
                "--disable-pip-version-check",
                "--no-input",
                "--no-compile",
                "--no-warn-script-location",
                # The list is complete, and nothing is ever built here.
                "--no-deps",
                "--only-binary=:all:",
                "--require-hashes",
                "--requirement",
                str(requirements),
                "--target",
                str(target),
                *flags,
            ]
        )


@contextlib.contextmanager
def _pip() -> Iterator[list[str]]:
    """The start of a command line that runs some pip of this machine."""
    if _works([sys.executable, "-m", "pip"]):
        yield [sys.executable, "-m", "pip"]
        return
    with tempfile.TemporaryDirectory(prefix="dimilinks-gimp-pip-") as temporary:
        place = Path(temporary)
        pip = [str(place / "venv/bin/python"), "-m", "pip"]
        subprocess.run([sys.executable, "-m", "venv", str(place / "venv")], capture_output=True)
        if not _works(pip):
            pip = [sys.executable, str(_debian_wheel(place) / "pip")]
        yield pip


def _works(pip: list[str]) -> bool:
    try:
        return subprocess.run([*pip, "--version"], capture_output=True).returncode == 0
    except OSError:
        return False


def _debian_wheel(place: Path) -> Path:
    """The pip wheel that Debian's package python3-pip-whl carries, unpacked into `place`."""
    if not shutil.which("apt-get"):
        raise Failure(
            f"{sys.executable} has no pip and no ensurepip, which fetch the worker's packages. "
            "Install pip for it (your system's package python3-pip) and try again."
        )
    say("Python has no pip here; fetching Debian's package python3-pip-whl …")
    place.chmod(0o755)
    download = ["apt-get", "download", "python3-pip-whl"]
    fetched = subprocess.run(download, cwd=place, capture_output=True)
    if fetched.returncode and os.geteuid() == 0:
        with contextlib.suppress(CommandFailed):
            run_with_progress(["apt-get", "update"])
        fetched = subprocess.run(download, cwd=place, capture_output=True)
    for package in place.glob("python3-pip-whl*.deb"):
        subprocess.run(["dpkg-deb", "-x", str(package), str(place)], capture_output=True)
    wheels = sorted(place.glob("usr/share/python-wheels/pip-*.whl"))
    if not wheels:
        raise Failure(
            f"{sys.executable} has no pip, and apt could not fetch one. "
            "Install the package python3-pip (as root: apt-get install python3-pip) and try again."
        )
    return wheels[-1]
