"""Running a script of `scripts/` in a private GIMP, and bringing back what it found."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

from installer.host import PrivateGimp

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
    """Run a script with `folder`, which it may write to, and more arguments; return its findings.

    It leaves them there as `found.json`. A link-free path to the photographs is in its
    DIMILINKS_TEST_PHOTOS. `timeout` is in seconds.
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
