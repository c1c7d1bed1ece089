"""A command inside a GIMP's folder tree, or straight on the machine for the machine's own GIMP.

Inside, the machine's /dev, /proc, /tmp and name servers are the machine's, and so is its network:
loopback servers outside can be reached. The mounts live in a namespace of the command's own and
vanish with it.
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
# Sharing one of these would hide what the tree itself needs there.
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
_TREE_WHOLLY = ("/etc", "/sys", "/usr/bin", "/usr/lib", "/usr/sbin", "/usr/share")
# These are the machine's own anyway.
_MACHINE = ("/dev", "/proc", "/tmp")  # noqa: S108


@functools.cache
def unshare() -> list[str]:
    """The start of a command line that gives the command a mount namespace of its own.

    Raises Failure where that is not allowed.
    """
    # Where / is no mount point (in a chroot), its propagation can't be set: see `_mounts`.
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
    """Raise Failure if this folder can't be made visible inside a GIMP's folder tree."""
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
    """The shell lines that build the view from inside; parents come before what lies in them."""
    top = shlex.quote(str(root))
    lines = [
        "set -e",
        # The tree becomes a mount of its own, so that nothing below is told to other namespaces.
        f"mount --bind {top} {top}",
        f"mount --make-private {top}",
    ]
    lines += [f"mount --rbind {place} {top}{place}" for place in _MACHINE]
    if Path("/etc/resolv.conf").exists() and (root / "etc/resolv.conf").is_file():
        lines.append(f"mount --bind /etc/resolv.conf {top}/etc/resolv.conf")

    writable: dict[Path, Path] = {}
    for share in shares:
        # Under the name that the user knows and under its real one.
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
    """Shell words for `path` in the tree, with the tree's symbolic links followed inside it."""
    top = shlex.quote(str(root))
    return f'{top}"$(chroot {top} realpath -m -- {shlex.quote(str(path))})"'


def bare(env: Mapping[str, str]) -> dict[str, str]:
    """The environment to start a `command_line` with.

    It has the API key, as every user of the machine can read command lines, and PATH.
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
    """The command line that runs `command` where `gimp` lives, with `env`.

    It has to be started with `bare(env)` for its environment: then there is nothing else.
    `shares` are folders that are visible and writable at the same path, `readonly` ones only
    visible. PATH is added. The process that it starts becomes the command itself, so that its id
    and its end are the command's. Raises Failure if a share is impossible.
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
