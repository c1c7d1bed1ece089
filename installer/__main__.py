"""The command line of the installer: `python3 -m installer [COMMAND]`."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from pathlib import Path

from . import environment, folders, installation, release
from .folders import Failure
from .gimps import SERIES


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python3 -m installer",
        description="Dimilinks for GIMP. Without a command: install.",
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    for name, text in {
        "install": "put the plug-in into every GIMP 3 of this user, or update it there",
        "list": "show the GIMPs, their profiles, and where the plug-in is installed",
        "uninstall": "remove the plug-in; key, settings and edits stay",
        "doctor": "check the installation, and say how to mend it; changes nothing",
    }.items():
        command = commands.add_parser(name, help=text, description=text)
        if name != "list":
            _add_profile_option(command)
        if name in ("install", "uninstall"):
            _add_dry_run(command)
        if name == "install":
            _add_wheels_option(command)
        if name == "uninstall":
            command.add_argument(
                "--everything",
                action="store_true",
                help="remove key, settings and all edits, too",
            )
    _add_profile_option(parser)
    _add_dry_run(parser)
    _add_wheels_option(parser)
    command = commands.add_parser(
        "python", help="make the worker's environment; print its interpreter"
    )
    _add_wheels_option(command)
    command = commands.add_parser(
        "wheels", help="fetch all packages into a folder, for a machine without a network"
    )
    command.add_argument("folder", metavar="DIR", type=Path)
    command.add_argument(
        "--python", metavar="VERSION", help="of that machine, such as 3.13 (default: as here)"
    )
    command = commands.add_parser("release", help="build the zip to hand out")
    command.add_argument(
        "--out", metavar="DIR", type=Path, default=Path("dist"), help="where to (default: dist)"
    )
    command = commands.add_parser("host", help="run a Python-Fu script in a private GIMP")
    _add_series_option(command)
    command.add_argument(
        "--share",
        metavar="DIR",
        type=Path,
        action="append",
        default=[],
        help="a folder that the script may read and write",
    )
    command.add_argument("script", metavar="SCRIPT.py")
    command.add_argument("arguments", metavar="ARG", nargs=argparse.REMAINDER)
    command = commands.add_parser("demo", help="show an edit on the embedded sandbox")
    _add_series_option(command)
    command.add_argument(
        "--out",
        metavar="DIR",
        type=Path,
        default=Path("dimilinks-demo"),
        help="where the pictures go (default: %(default)s)",
    )
    return parser


# The next three functions add options that the user can give before or after the command. Such an
# option has no default (SUPPRESS), because the default of the command's parser would overwrite a
# value that the user gave before the command.


def _add_profile_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--gimp-dir",
        metavar="DIR",
        type=Path,
        default=argparse.SUPPRESS,
        help="this profile folder only",
    )


def _add_dry_run(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--dry-run",
        action="store_true",
        default=argparse.SUPPRESS,
        help="show what would be done, and do nothing",
    )


def _add_wheels_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--wheels",
        metavar="DIR",
        type=Path,
        default=argparse.SUPPRESS,
        help="take the packages from this folder instead of the network",
    )


def _add_series_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--gimp", choices=SERIES, help="which GIMP (default: the machine's own)")


def _run(options: argparse.Namespace) -> int:
    gimp_dir: Path | None = getattr(options, "gimp_dir", None)
    wheels: Path | None = getattr(options, "wheels", None)
    dry_run: bool = getattr(options, "dry_run", False)
    if options.command in ("host", "demo"):
        folders.refuse_foreign_home(
            "run it without sudo, or, to have a private GIMP fetched, with sudo -H, which gives "
            "root a home of its own."
        )
    elif options.command not in ("list", "wheels", "release"):
        folders.refuse_foreign_home("run it without sudo, as the user who runs GIMP.")
    match options.command:
        case "python":
            path = environment.for_machine(wheels)
            # Write bytes, because the path need not be valid UTF-8.
            sys.stdout.buffer.write(os.fsencode(f"{path}\n"))
            return 0
        case "wheels":
            environment.download(options.folder, options.python)
            print(f"All packages are in {options.folder}: install with --wheels {options.folder}")
            return 0
        case "release":
            print(release.build(options.out))
            return 0
        case "host":
            # Import `private` only for the commands that use it, because it exists only in the
            # checkout: the copy of the installer in an installed plug-in lacks it.
            from .private import host

            return host.host(options.gimp, options.share, options.script, options.arguments)
        case "demo":
            from .private import demo

            return demo.demo(options.gimp, options.out)
        case "list":
            return installation.show()
        case "uninstall":
            return installation.uninstall(gimp_dir, options.everything, dry_run)
        case "doctor":
            return installation.examine(gimp_dir)
        case _:
            return installation.install(gimp_dir, wheels, dry_run)


def main() -> int:
    # Raise SystemExit at SIGTERM, so that `with` and `finally` end GIMP and remove the temporary
    # folders, as they do after Ctrl-C.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    # Print "?" for characters that the terminal's encoding lacks, instead of raising an exception.
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="replace")  # type: ignore[union-attr]
    try:
        return _run(_arguments().parse_args())
    except Failure as failure:
        print(failure, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
