"""Run a script of `scripts/` in a private GIMP, and return what it found."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

from installer.private.host import PrivateGimp

_SCRIPTS = Path(__file__).parent / "scripts"


def run_inside(
    gimp: PrivateGimp,
    folder: Path,
    photographs: Path,
    script: str,
    *arguments: str,
    timeout: float | None = None,
    **environment: str,
) -> Any:
    """Run a script, and return the findings that it has written to `found.json` in `folder`.

    The arguments of the script are `folder` and `arguments`. `environment` is added to its
    environment variables, of which DIMILINKS_TEST_PHOTOS contains the path of the photographs.
    `timeout` is in seconds.
    """
    out, err = io.BytesIO(), io.BytesIO()
    code = gimp.script(
        _SCRIPTS / f"{script}.py",
        [str(folder), *arguments],
        env={
            "DIMILINKS_HOME": str(folder / "home"),
            "DIMILINKS_BASE_URL": "sandbox",
            "DIMILINKS_TEST_PHOTOS": str(photographs),
            **environment,
        },
        shares=[folder],
        out=out,
        err=err,
        timeout=timeout,
    )
    assert code == 0, out.getvalue().decode() + err.getvalue().decode()
    return json.loads((folder / "found.json").read_text("utf-8"))
