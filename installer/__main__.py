"""The installer's commands: `python3 -m installer [COMMAND]`."""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path

from . import demo, environment, host, installation
from .folders import Failure
from .profiles import SERIES


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python3 -m installer",
        description="Dimilinks for GIMP. Without a command: install.",
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    for name, text in {
        "install": "put the plug-in into every GIMP 3 of this user",
        "list": "show the GIMPs, their profiles, and where the plug-in is installed",
        "uninstall": "remove the plug-in; key, settings and jobs stay",
        "doctor": "check the installation, and say how to mend it",
    }.items():
        command = commands.add_parser(name, help=text, description=text)
        if name != "list":
            _add_profile_option(command)
    _add_profile_option(parser)
    commands.add_parser("python", help="make the worker's environment; print its interpreter")
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
        default=Path(demo.DEFAULT_OUT),
        help=f"where the pictures go (default: {demo.DEFAULT_OUT})",
    )
    return parser


def _add_profile_option(parser: argparse.ArgumentParser) -> None:
    # Suppressed, so that a command's default doesn't undo the option given before the command.
    parser.add_argument(
        "--gimp-dir",
        metavar="DIR",
        type=Path,
        default=argparse.SUPPRESS,
        help="this profile folder only",
    )


def _add_series_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--gimp", choices=SERIES, help="which GIMP (default: the machine's own)")


def _run(options: argparse.Namespace) -> int:
    gimp_dir: Path | None = getattr(options, "gimp_dir", None)
    match options.command:
        case "python":
            print(environment.for_machine())
            return 0
        case "host":
            return host.host(options.gimp, options.share, options.script, options.arguments)
        case "demo":
            return demo.demo(options.gimp, options.out)
        case "list":
            return installation.show()
        case "uninstall":
            return installation.uninstall(gimp_dir)
        case "doctor":
            return installation.examine(gimp_dir)
        case _:
            return installation.install(gimp_dir)


def main() -> int:
    # As Ctrl-C does it: with GIMP ended and temporary folders removed.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        return _run(_arguments().parse_args())
    except Failure as failure:
        print(failure, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
