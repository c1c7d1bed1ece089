"""The measurements of `tests/bench/speed` on a few edits, without limits for their time."""

from __future__ import annotations

from pathlib import Path

from installer.private.host import PrivateGimp
from tests.gimp import speed


def test_edits_are_timed_and_weighed(gimp: PrivateGimp, photo_files: Path, tmp_path: Path) -> None:
    file = str(photo_files / "coffee.png")
    case = {"file": file, "select": [200, 100, 120, 100], "prompt": "remove the spoon", "times": 1}
    timed = speed.run(
        gimp,
        tmp_path,
        photo_files,
        [
            {**case, "name": "photograph", "limit": True, "naive": 1},
            {**case, "name": "canvas", "canvas": [1500, 1000], "layers": 3},
            {**case, "name": "layers", "drawables": 5, "scale": [60, 40], "select": None},
        ],
    )
    photograph, canvas, layers = timed.found
    edit = photograph["edits"][0]
    sent, size = timed.request(edit)
    done = edit["done"]
    assert 0 < done["exported"] < sent < done["fetched"] < done["fitted"] < done["placed"]
    assert done["placed"] < edit["seconds"]
    # Only the region is sent, whereas the plain plug-in saves the whole image.
    assert size < 0.8 * photograph["naive"][0]["bytes"]
    assert set(photograph["limits"][0]) == {"read", "start", "encode", "decode", "move", "write"}
    assert timed.peak(edit, "worker") > timed.peak(edit, "plug-in") > 20
    # The same region is sent, whatever the size of the canvas is.
    region = canvas["edits"][0]["region"]["content"]
    assert (region["width"], region["height"]) == tuple(
        edit["region"]["content"][side] for side in ("width", "height")
    )
    assert timed.most_at_once <= 4
    assert len(timed.arrived) == 2 + 2 + 2 * 5, layers
