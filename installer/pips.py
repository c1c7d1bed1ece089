"""Find a pip that works, and pass on only those of the user's pip settings that are needed.

pip is the program that installs packages for Python.
"""

from __future__ import annotations

import ast
import contextlib
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from . import programs
from .folders import Failure, say
from .programs import VENV_PYTHON, CommandFailed, run_with_progress

_WHEELS = Path("/usr/share/python-wheels")
"""The folder in which Debian's package python3-pip-whl installs the wheel (package file) of pip."""


@contextlib.contextmanager
def found(wheels: Path | None) -> Iterator[list[str]]:
    """Yield the words that start pip, before its arguments. Raises Failure if there is no pip.

    pip is the first of these that is found: the pip of this Python, the pip of a temporary venv, a
    wheel of pip in the folder `wheels` or in Debian's folder, or a wheel that apt-get downloads.
    """
    if _works([sys.executable, "-m", "pip"]):
        yield [sys.executable, "-m", "pip"]
        return
    with tempfile.TemporaryDirectory(prefix="dimilinks-gimp-pip-") as temporary:
        place = Path(temporary)
        pip = [str(place / "venv" / VENV_PYTHON), "-m", "pip"]
        programs.run([sys.executable, "-m", "venv", str(place / "venv")])
        if not _works(pip):
            near = [folder for folder in (wheels, _WHEELS) if folder]
            found = [path for folder in near for path in sorted(folder.glob("pip-*.whl"))]
            pip = [sys.executable, str((found[0] if found else _debian_wheel(place)) / "pip")]
        yield pip


_KEPT = (
    *("index-url", "pypi-url", "extra-index-url", "no-index", "find-links"),
    *("proxy", "cert", "client-cert", "trusted-host", "keyring-provider"),
    *("timeout", "default-timeout", "retries", "resume-retries", "cache-dir", "no-cache-dir"),
    # These settings decide whether pip uses the system's CA certificates or pip's own.
    *("use-feature", "use-deprecated"),
)
"""The pip settings to pass on: where packages come from, and how to connect to their server."""


def settings(pip: list[str], verb: str) -> dict[str, str]:
    """Return those settings in _KEPT that the user has set for the pip command `verb`.

    The user sets them in environment variables or in pip's configuration files. Other settings,
    such as --user, --target, constraints or builds from source, are left out, because with them pip
    would not install the packages that the worker needs. If pip can't read its configuration files,
    show the output of pip and raise CommandFailed.
    """
    quiet = {"PIP_QUIET": "0", "PIP_VERBOSE": "0"}
    answer = programs.run([*pip, "config", "list"], {**programs.environ(), **quiet})
    if answer.returncode:
        say(answer.stdout + answer.stderr)
        raise CommandFailed("pip can't read its settings")
    found = re.findall(r"^([^.=]+)\.([\w-]+)=(['\"].*['\"])$", answer.stdout, re.MULTILINE)
    kept = {}
    # A value in a later section replaces the value in an earlier one. Skip empty values, because
    # pip ignores them.
    for section in ("global", verb, ":env:"):
        for its_section, name, quoted in found:
            value = ast.literal_eval(quoted)
            if its_section == section and name in _KEPT and value:
                kept[name] = value
    return kept


def environ(chosen: Mapping[str, str]) -> dict[str, str]:
    """Return environment variables that let pip use `chosen`, but no other settings of the user."""
    variables = {f"PIP_{name.upper().replace('-', '_')}": v for name, v in chosen.items()}
    clean = {name: v for name, v in programs.environ().items() if not name.startswith("PIP_")}
    # Turn off pip's warning to root with a variable, because some versions of pip have no option
    # for this, but all accept the variable.
    own = {"PIP_CONFIG_FILE": os.devnull, "PIP_ROOT_USER_ACTION": "ignore"}
    return {**clean, **variables, **own}


def _works(pip: list[str]) -> bool:
    try:
        return programs.run([*pip, "--version"], environ({})).returncode == 0
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
