"""The promise as a matrix: images of every kind that GIMP has, edited inside a selection.

    cases(seed)             every possible pair of values, in few cases
    run(gimp, cases, …)     edit the cases in a real GIMP, with `scripts/promise.py`
    judge(case, folder)     what is wrong with an edited case, in words

Nothing may change where less than half of 1/255 is selected. There, the layers must stay the same
bit for bit, and the layer masks of new layers must be 0. The view must stay the same bit for bit,
or within 1e-6 in images with 32 bits, where GIMP's own compositing rounds.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from covertable import make

from installer.private.host import PrivateGimp
from tests.gimp.run_inside import run_inside

AXES: dict[str, list[str]] = {
    "precision": [
        f"{depth} {encoding}"
        for depth in ("u8", "u16", "u32", "half", "float")
        for encoding in ("gamma", "linear")
    ],
    "base": ["RGB", "RGBA", "gray", "gray+alpha", "indexed"],
    "profile": ["built-in", "wide gamut", "linear"],
    "layer": [
        "full",
        "over the left edge",
        "over the top edge",
        "over the right edge",
        "over the bottom edge",
        "smaller than the selection",
        "in a nested group",
        "with a mask",
        "mask being edited",
        "alpha lock",
        "opacity 40 %",
        "mode multiply",
    ],
    "selection": [
        "none",
        "rectangle",
        "feathered ellipse",
        "two pieces",
        "one pixel",
        "hairline",
        "speckles",
        "touching edges",
        "inverted",
        "all",
    ],
    "output": ["new-layer", "replace"],
    "source": ["layer", "visible"],
}

_IMPOSSIBLE = (
    # GIMP has indexed images in one precision only.
    {"base": ["indexed"], "precision": [p for p in AXES["precision"] if p != "u8 gamma"]},
    # The procedure refuses this, which `scripts/bad_input.py` tests.
    {"output": ["replace"], "source": ["visible"]},
)

Case = dict[str, Any]

_TYPES = {"u8": "u1", "u16": "<u2", "u32": "<u4", "half": "<f2", "float": "<f4"}
_ROUNDS = ("u32", "float")
_MOST_ROUNDED = 1e-6


def possible(case: Case) -> bool:
    """Return whether GIMP and the procedure allow this case. Values may be left out."""
    return not any(
        all(case.get(axis) in values for axis, values in together.items())
        for together in _IMPOSSIBLE
    )


def cases(seed: str = "") -> list[Case]:
    """Return cases that contain every possible pair of values, always the same for a seed."""
    constraints = [
        {
            "operator": "fn",
            "requires": list(together),
            "evaluate": lambda row: possible(row),
        }
        for together in _IMPOSSIBLE
    ]
    return [dict(case) for case in make(AXES, salt=seed, constraints=constraints)]


def run(
    gimp: PrivateGimp, chosen: Sequence[Case], folder: Path, photographs: Path, base_url: str
) -> list[Case]:
    """Edit the cases in GIMP, and return them with what was found. The pixels are in `folder`."""
    (folder / "cases.json").write_text(json.dumps(chosen), "utf-8")
    access = {"DIMILINKS_BASE_URL": base_url, "DIMILINKS_API_KEY": "test-key"}
    found: list[Case] = run_inside(gimp, folder, photographs, "promise", **access)
    return found


def judge(case: Case, folder: Path) -> list[str]:
    """Return what is wrong with an edited case, in words."""
    if case["message"] or not case["made"]:
        return [f"no result: {case['message']}"]
    wrong = [what for what, right in case["right"].items() if not right]
    depth = case["precision"].split()[0]

    def load(name: str, size: Iterable[int], kind: str) -> Any:
        width, height = size
        return np.fromfile(folder / name, kind).reshape(height, width, -1)

    def outside(size: tuple[int, int], at: tuple[int, int]) -> Any:
        """Return an array that is true where a drawable of `size` at `at` is not selected.

        Nothing is selected beyond the canvas.
        """
        width, height = case["canvas"]
        padded = np.zeros((height + 4 * size[1], width + 4 * size[0]), np.uint8)
        selection = load(case["selected"], case["canvas"], "u1")[..., 0]
        left, top = 2 * size[0], 2 * size[1]
        padded[top : top + height, left : left + width] = selection
        x, y = left + at[0], top + at[1]
        return padded[y : y + size[1], x : x + size[0]] == 0

    everything = case["selection"] == "none"
    for layer in case["layers"]:
        before = load(layer["before"], layer["size"], _TYPES[depth])
        after = load(layer["after"], layer["size"], _TYPES[depth])
        changed = (before.view("u1") != after.view("u1")).any(axis=2)
        if layer["name"] == "edited" and case["output"] == "replace":
            if not everything:
                changed &= outside(layer["size"], layer["at"])
            else:
                changed[:] = False
        if changed.any():
            wrong.append(f"{changed.sum()} pixels changed in the layer {layer['name']}")
    for made in case["made"]:
        if made["mask"]:
            mask = load(made["mask"], made["size"], "u1")
            leaks = mask.any(axis=2) & outside(made["size"], made["at"])
            if leaks.any():
                wrong.append(f"the mask lets {leaks.sum()} pixels through")
        elif not everything and case["output"] == "new-layer":
            wrong.append("the new layer has no mask")
    if not everything:
        seen = [load(case[name], case["canvas"], _TYPES[depth]) for name in ("seen", "sees")]
        left_out = outside(case["canvas"], (0, 0))
        before, after = (view[left_out] for view in seen)
        if depth in _ROUNDS:
            scale = 2.0**32 - 1 if depth == "u32" else 1.0
            off = np.abs(before / scale - after.astype("f8") / scale)
            broken = int((off > _MOST_ROUNDED).any(axis=1).sum()) if off.size else 0
        else:
            broken = int((before.view("u1") != after.view("u1")).any(axis=1).sum())
        if broken:
            wrong.append(f"{broken} pixels of the view changed")
        inside = [view[~left_out] for view in seen]
        if not (inside[0] != inside[1]).any() and case["selection"] not in ("one pixel",):
            wrong.append("nothing changed inside either")
    return wrong
