"""The command `demo`: edit a selected part of a photograph in a real GIMP, using the sandbox.

The sandbox is the plug-in's built-in stand-in for the paid service.
"""

from __future__ import annotations

import json
import time
from pathlib import Path

from ..folders import CHECKOUT, Failure, say
from .host import PrivateGimp

PICTURE = CHECKOUT / "docs" / "coffee.jpg"
SCRIPT = Path(__file__).with_name("demo_script.py")
PROMPT = "turn it into a pencil sketch"


def demo(series: str | None, out: Path) -> int:
    """Run the demo in a GIMP of `series`, write the pictures to the folder `out`, and return 0.

    Raises Failure if GIMP fails, if the edit changed a pixel outside the selection, or if the edit
    changed no pixel inside the selection.
    """
    started = time.monotonic()
    folder = out.absolute()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Failure(f"{folder} can't be made: {error.strerror}.") from error
    for name in ("before.png", "after.png", "edited.xcf"):
        (folder / name).unlink(missing_ok=True)
    with PrivateGimp(series, [folder]) as gimp:
        say(f"Editing {PICTURE.name} in GIMP {gimp.gimp.version} …")
        figures = gimp.temporary / "figures.json"
        environ = {
            # The demo must never use the user's own service, key, settings or jobs.
            "DIMILINKS_BASE_URL": "sandbox",
            "DIMILINKS_API_KEY": "",
            "DIMILINKS_ROUTE": "edits",
            "DIMILINKS_HOME": str(gimp.temporary / "dimilinks"),
        }
        arguments = [str(PICTURE), str(folder), PROMPT, str(figures)]
        if gimp.script(SCRIPT, arguments, environ):
            raise Failure("The demo failed in GIMP; its messages are above.")
        found = json.loads(figures.read_text(encoding="utf-8"))
    print(f"GIMP {found['gimp']}: {PICTURE.name}, an ellipse around the saucer selected.")
    print(f"Prompt: {PROMPT!r}, answered by the embedded sandbox in {found['seconds']:.1f} s.")
    print(f"Outside the selection {found['outside_changed']} of {found['outside']} pixels differ.")
    print(f"Inside {found['inside_changed']} of {found['inside']} pixels differ.")
    print("Layers, top first:")
    for layer in found["layers"]:
        print(f"  {layer['name']}" + (" (with a layer mask)" if layer["masked"] else ""))
    print(f"before.png, after.png and edited.xcf are in {folder}.")
    print(f"It took {time.monotonic() - started:.1f} s in all.")
    if found["outside_changed"] or not found["inside_changed"]:
        raise Failure("That is not what the plug-in promises: please report it.")
    return 0
