"""Run a command where a GIMP runs: in a private GIMP's folder tree, or directly on the machine.

A private GIMP's folder tree is a small Debian system, in which a command runs by chroot. The
command uses the machine's /dev, /proc, /tmp, name servers and network, so the command can connect
to servers on the machine's loopback interface. The machine's folders are mounted in a mount
namespace that belongs only to the command, so these mounts vanish when the command ends.
"""

from __future__ import annotations

import functools
import os
import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path

from . import programs
from .folders import Failure
from .gimps import Gimp

INSIDE_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# The user can't share these top-level folders, because a shared folder would hide the files that
# the tree has at the same path.
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
# The user can share neither these folders nor any folder inside them.
_TREE_WHOLLY = ("/etc", "/sys", "/usr/bin", "/usr/lib", "/usr/sbin", "/usr/share")
# The tree always shows the machine's own folders at these paths.
_MACHINE = ("/dev", "/proc", "/tmp")  # noqa: S108


@functools.cache
def unshare() -> list[str]:
    """Return the words that make the command after them run in a mount namespace of its own.

    Raises Failure if the user is not permitted to do this, or if there is no command unshare.
    """
    # If the installer itself runs in a chroot, / is possibly no mount point, and setting the
    # propagation of / to private fails. Then leave it unchanged: `_mounts` makes the tree private.
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
    """Raise Failure if `folder` can't be mounted at the same path in a private GIMP's tree."""
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

    The commands also mount the machine's own folders, and create the folder `cwd` in the tree. A
    folder is mounted before the folders inside it, because otherwise it would hide their mounts.
    """
    top = shlex.quote(str(root))
    lines = [
        "set -e",
        # Make the tree a private mount, so that mounts inside the tree don't appear in other
        # namespaces.
        f"mount --bind {top} {top}",
        f"mount --make-private {top}",
    ]
    lines += [f"mount --rbind {place} {top}{place}" for place in _MACHINE]
    if Path("/etc/resolv.conf").exists() and (root / "etc/resolv.conf").is_file():
        lines.append(f"mount --bind /etc/resolv.conf {top}/etc/resolv.conf")

    writable: dict[Path, Path] = {}
    for share in shares:
        # Mount the share twice: at the path that the user gave, and at the same path with all
        # symbolic links resolved.
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
    """Return a shell word that expands to the machine's path of `path` in the tree `root`.

    Symbolic links are resolved as a command inside the tree would resolve them.
    """
    top = shlex.quote(str(root))
    return f'{top}"$(chroot {top} realpath -m -- {shlex.quote(str(path))})"'


def bare(env: Mapping[str, str]) -> dict[str, str]:
    """Return the environment variables with which to start what `command_line` returns.

    These are PATH and, if `env` has it, the API key. The other variables in `env` are on the
    command line, but the API key can't be, because every user of the machine can read command
    lines.
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

    Start the returned command line with the environment variables `bare(env)`. `command` then gets
    PATH, the variables in `env`, and no others. `command` runs in the folder `cwd`, by default the
    current one. It can read and write the folders in `shares`, and read the folders in `readonly`,
    at the same paths as on the machine. `command` replaces the process that was started, so it has
    the same process ID. Raises Failure if a folder can't be shared.
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
