"""Run a command where a GIMP runs: in a private GIMP's folder tree, or directly on the machine.

A command in a folder tree uses the machine's /dev, /proc, /tmp, name servers and network, so it can
connect to servers on the machine's loopback interface. The mounts are in a namespace of the
command's own and vanish with it.
"""

from __future__ import annotations

import functools
import os
import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path

from . import programs
from .folders import Failure
from .profiles import Gimp

INSIDE_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# These folders can't be shared: the share would hide files that the tree itself needs.
_TREE = (
    "bin",
    "boot",
    "etc",
    "lib",
    "lib32",
    "lib64",
    "libx32",
    "opt",
    "run",
    "sbin",
    "usr",
    "var",
)
# Nothing inside these folders can be shared either.
_TREE_WHOLLY = ("/etc", "/sys", "/usr/bin", "/usr/lib", "/usr/sbin", "/usr/share")
# In the tree, these are always the machine's own folders.
_MACHINE = ("/dev", "/proc", "/tmp")  # noqa: S108


@functools.cache
def unshare() -> list[str]:
    """Return the first words of a command line that runs in a mount namespace of its own.

    Raises Failure if this is not permitted.
    """
    # In a chroot, / may not be a mount point. Its propagation can't be set then, and `_mounts`
    # makes the tree private instead.
    for propagation in ("private", "unchanged"):
        command = ["unshare", "--mount", "--propagation", propagation]
        try:
            if programs.run([*command, "true"]).returncode == 0:
                return command
        except FileNotFoundError:
            break
    raise Failure(
        "GIMP can't be run from its folder: this needs the right to mount (root with CAP_SYS_ADMIN)"
        " and the command unshare. Install GIMP 3 on the machine instead."
    )


def _within(path: Path, places: Iterable[str]) -> bool:
    return any(path.is_relative_to(place) for place in places)


def check_share(folder: Path) -> None:
    """Raise Failure if a private GIMP's folder tree can't show `folder` at the same path."""
    if not folder.is_dir():
        raise Failure(f"{folder} can't be shared: there is no such folder.")
    if _within(folder.resolve(), _MACHINE):
        return
    for path in (folder.absolute(), folder.resolve()):
        if str(path) in {"/", *(f"/{name}" for name in _TREE)} or _within(path, _TREE_WHOLLY):
            raise Failure(
                f"{path} can't be shared: GIMP's own files lie there. Use another folder."
            )


def _mounts(root: Path, shares: Iterable[Path], readonly: Iterable[Path], cwd: Path) -> str:
    """Return the shell commands that mount the shared folders in the tree `root`.

    They also create the folder `cwd` in the tree. Folders are mounted before the folders that they
    contain.
    """
    top = shlex.quote(str(root))
    lines = [
        "set -e",
        # Make the tree a private mount, so that the mounts in it don't appear in other namespaces.
        f"mount --bind {top} {top}",
        f"mount --make-private {top}",
    ]
    lines += [f"mount --rbind {place} {top}{place}" for place in _MACHINE]
    if Path("/etc/resolv.conf").exists() and (root / "etc/resolv.conf").is_file():
        lines.append(f"mount --bind /etc/resolv.conf {top}/etc/resolv.conf")

    writable: dict[Path, Path] = {}
    for share in shares:
        # Mount it at the path that the user gave and at the one without symbolic links.
        writable[share.absolute()] = writable[share.resolve()] = share.resolve()
    fixed = {path.absolute(): path.resolve() for path in readonly}
    for target, source in sorted({**fixed, **writable}.items()):
        if target not in writable or not _within(target, _MACHINE):
            inside = _inside(root, target)
            lines.append(f"mkdir -p {inside}")
            lines.append(f"mount --bind {shlex.quote(str(source))} {inside}")
            if target not in writable:
                lines.append(f"mount -o remount,bind,ro {inside}")
    lines.append(f"mkdir -p {_inside(root, cwd)}")
    return "\n".join(lines)


def _inside(root: Path, path: Path) -> str:
    """Return a shell word for `path` in the tree, with symbolic links resolved inside the tree."""
    top = shlex.quote(str(root))
    return f'{top}"$(chroot {top} realpath -m -- {shlex.quote(str(path))})"'


def bare(env: Mapping[str, str]) -> dict[str, str]:
    """Return the environment variables to start a `command_line` with.

    These are PATH and the API key in `env`, which can't be on the command line: every user of the
    machine can read command lines.
    """
    return {
        "PATH": _own_path(),
        **{name: value for name, value in env.items() if name == programs.KEY},
    }


def _own_path() -> str:
    return os.environ.get("PATH", INSIDE_PATH)


def command_line(
    gimp: Gimp,
    command: list[str],
    env: Mapping[str, str],
    shares: Iterable[Path] = (),
    readonly: Iterable[Path] = (),
    cwd: Path | None = None,
) -> list[str]:
    """Return the command line that runs `command` where `gimp` runs.

    Start it with the environment variables of `bare(env)`: the command then gets those in `env`,
    PATH, and no others. It runs in the folder `cwd`, by default the current one. It can read and
    write the folders in `shares`, and read those in `readonly`, at the same paths. The process is
    replaced by the command, so its process ID and exit code are those of the command. Raises
    Failure if a folder can't be shared.
    """
    where = cwd or Path.cwd()
    path = INSIDE_PATH if gimp.root else _own_path()
    told = {"PATH": path, **env}
    variables = [f"{name}={value}" for name, value in told.items() if name != programs.KEY]
    shares, readonly = list(shares), list(readonly)
    for folder in (*shares, *readonly):
        check_share(folder)
    inner = ["env", "-C", str(where), *variables, *command]
    if gimp.root is None:
        return inner
    script = f'{_mounts(gimp.root, shares, readonly, where)}\nexec chroot "$@"'
    return [*unshare(), "sh", "-c", script, "sh", str(gimp.root), *inner]
