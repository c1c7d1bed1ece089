"""Starting other programs, and which variables of this process they get.

Everything that the installer starts gets its variables from here. What runs beside a private GIMP
is the exception: its variables are chosen one by one in host.py.
"""

from __future__ import annotations

import os
import subprocess
from typing import Any

KEY = "DIMILINKS_API_KEY"
_KEYRING = "PYTHON_KEYRING_BACKEND"


def environ(key: bool = False) -> dict[str, str]:
    """The environment of an interpreter or a tool that does a step of the installer's.

    The user's PYTHON* variables are left out: they can keep an interpreter from starting, or have
    it load other packages than its own. Only the choice of a keyring stays. The API key is there
    only with `key`: for the worker.
    """
    return {
        **{
            name: value
            for name, value in os.environ.items()
            if (key or name != KEY) and (name == _KEYRING or not name.startswith("PYTHON"))
        },
        # Paths and messages may have letters that the language's encoding lacks.
        "PYTHONUTF8": "1",
    }


def environ_of_gimp() -> dict[str, str]:
    """The environment of the user's own GIMP: the user's, without the API key."""
    return {name: value for name, value in os.environ.items() if name != KEY}


def run(
    command: list[str], env: dict[str, str] | None = None, **options: Any
) -> subprocess.CompletedProcess[str]:
    """Run a program to its end, without input, and return what it printed.

    `env` is `environ()` by default, `options` are those of subprocess.run. Raises OSError, and
    TimeoutExpired if a timeout is given.
    """
    return subprocess.run(
        command,
        env=environ() if env is None else env,
        stdin=subprocess.DEVNULL,
        text=True,
        errors="replace",
        **{"capture_output": True, **options},
    )
