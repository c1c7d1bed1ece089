"""Compute which part of a picture is sent (the region), with which ratio and size.

The region is the selection with some of its surroundings (the context), enlarged until its sides
have a ratio that the service supports. The region grows and shifts within the picture as far as
possible. Only a region that does not fit into the picture extends beyond it; the worker fills the
area beyond the picture by repeating the pixels of the picture's edge. A selection never costs less
than a smaller selection inside it.

All boxes have whole pixels, with x to the right and y down.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

from plugin.errors import UserError
from plugin.limits import TIERS
from plugin.translation import _

_LANDSCAPE = {
    "1:1": ((1024, 1024), (2048, 2048), (2880, 2880)),
    "3:2": ((1008, 672), (2016, 1344), (3504, 2336)),
    "4:3": ((1024, 768), (2048, 1536), (3264, 2448)),
    "5:4": ((960, 768), (2000, 1600), (3200, 2560)),
    "16:9": ((1024, 576), (2048, 1152), (3840, 2160)),
    "2:1": ((1024, 512), (2048, 1024), (3840, 1920)),
    "21:9": ((1008, 432), (2016, 864), (3696, 1584)),
}

RATIOS: dict[str, dict[str, tuple[int, int]]] = {}
"""The service's sizes: RATIOS["3:2"]["1k"] is the (width, height) of an answer in pixels."""
for _name, _sizes in _LANDSCAPE.items():
    _a, _b = _name.split(":")
    RATIOS[_name] = dict(zip(TIERS, _sizes))
    RATIOS[f"{_b}:{_a}"] = dict(zip(TIERS, ((h, w) for w, h in _sizes)))

RATIO_TOLERANCE = 0.004
"""A picture counts as having a certain ratio if its own ratio differs by at most this share.

The difference doesn't matter, because results are scaled by more than this in any case.
"""

CONTEXT_FLOOR = 64
"""Smallest context on each side, in pixels."""
CONTEXT_SHARE = 0.12
"""Context on each side, as a fraction of the selection's diagonal."""

_EXACT_SIZE = re.compile(r"(\d{2,5})\s*[x×*]\s*(\d{2,5})", re.IGNORECASE)
_EXACT_PIXELS = (655_360, 8_294_400)


@dataclass(frozen=True)
class Box:
    """A rectangle of whole pixels, from (x, y) up to, but not including, (right, bottom)."""

    x: int
    y: int
    width: int
    height: int

    @property
    def right(self) -> int:
        return self.x + self.width

    @property
    def bottom(self) -> int:
        return self.y + self.height

    @property
    def empty(self) -> bool:
        return self.width <= 0 or self.height <= 0

    @staticmethod
    def from_json(saved: Any) -> Box:
        """Return the box with the x, y, width and height that are listed in `saved`.

        Raises TypeError or ValueError if `saved` is not a list of four integers.
        """
        return Box(*whole_numbers(saved, 4))

    def intersection(self, other: Box) -> Box:
        x, y = max(self.x, other.x), max(self.y, other.y)
        return Box(
            x,
            y,
            max(0, min(self.right, other.right) - x),
            max(0, min(self.bottom, other.bottom) - y),
        )

    def moved(self, dx: int, dy: int) -> Box:
        return Box(self.x + dx, self.y + dy, self.width, self.height)

    def grown(self, margin: int) -> Box:
        return Box(
            self.x - margin,
            self.y - margin,
            self.width + 2 * margin,
            self.height + 2 * margin,
        )


@dataclass(frozen=True)
class Region:
    """The part of a picture that is sent, and the sizes of the upload and of the answer.

    `box` is the rectangle that is sent. `content` is the part of `box` inside the picture; the
    worker fills the area outside by repeating the picture's edge. Both boxes are in the coordinates
    of the layer or canvas.

    `size` (a ratio or "WxH") and `resolution` (a tier) are sent with the request. `answer` is the
    (width, height) in pixels of the answer that they ask for. `upload` is the (width, height) to
    which the pixels of `box` are scaled for the upload: smaller than `box` if the answer is smaller
    than `box`, and the size of `box` otherwise.
    """

    box: Box
    content: Box
    size: str
    resolution: str
    answer: tuple[int, int]
    upload: tuple[int, int]

    @staticmethod
    def from_json(saved: Any) -> Region:
        """Return the region that `dataclasses.asdict` turned into `saved`.

        Raises KeyError, TypeError, ValueError or UserError if `saved` is no valid region.
        """
        box, content = (
            Box.from_json([saved[name][each] for each in ("x", "y", "width", "height")])
            for name in ("box", "content")
        )
        across, down = whole_numbers(saved["answer"], 2)
        width, height = whole_numbers(saved["upload"], 2)
        size, resolution = saved["size"], saved["resolution"]
        if not isinstance(size, str) or resolution not in TIERS:
            raise TypeError
        if content.empty or content.intersection(box) != content:
            raise ValueError
        # No answer has more pixels than this limit. The upload can be larger than the answer by
        # RATIO_TOLERANCE.
        if min(across, down, width, height) < 1 or across * down > _EXACT_PIXELS[1]:
            raise ValueError
        if width * height > 1.1 * _EXACT_PIXELS[1]:
            raise ValueError
        return Region(box, content, check_size(size), resolution, (across, down), (width, height))


def whole_numbers(saved: Any, count: int) -> list[int]:
    """Return `saved`, which must be a list or tuple of `count` integers, as a list.

    Raises TypeError or ValueError if `saved` is anything else.
    """
    if not isinstance(saved, (list, tuple)) or len(saved) != count:
        raise ValueError
    if not all(isinstance(each, int) and not isinstance(each, bool) for each in saved):
        raise TypeError
    return list(saved)


def check_size(size: str) -> str:
    """Return `size` as the service spells it: "auto", a ratio in RATIOS, or "WxH" in pixels.

    Raises UserError if `size` is none of these, or if the service can't make a picture of that
    width and height.
    """
    text = size.strip().lower() or "auto"
    if text == "auto" or text in RATIOS:
        return text
    match = _EXACT_SIZE.fullmatch(text)
    if match is None:
        raise UserError(
            _(
                "“{size}” is not a size for the result. Use auto, a size in pixels such as "
                "1536x1024, or one of these ratios: {ratios}. Their upright forms, such as 2:3, "
                "are possible, too."
            ).format(size=size, ratios=", ".join(_LANDSCAPE))
        )
    width, height = int(match[1]), int(match[2])
    lowest, highest = _EXACT_PIXELS
    if (
        width % 16
        or height % 16
        or not lowest <= width * height <= highest
        or max(width, height) > 3 * min(width, height)
    ):
        raise UserError(
            _(
                "The service can't make a picture of {width}x{height}. Choose another size: "
                "both sides must be multiples of 16, the total must be {lowest:,} to "
                "{highest:,} pixels, and the ratio at most 3:1."
            ).format(width=width, height=height, lowest=lowest, highest=highest)
        )
    return f"{width}x{height}"


def plan(
    selection: Box,
    extent: Box,
    size: str = "auto",
    resolution: str = "auto",
    ceiling: str = "4k",
    context: int | None = None,
) -> Region:
    """Return the region for an edit of `selection` in a picture.

    `selection` is the bounding box of the selection, and `extent` is the box of the whole picture,
    in the same coordinates. To send the whole picture, pass `extent` as `selection`.

    `size` is described at `check_size`. "auto" chooses the ratio that needs the lowest tier and, if
    several ratios do, the one with the fewest pixels (see `_cost`). `resolution` is a tier, or
    "auto" for the smallest tier in which the region need not be shrunk, but at most `ceiling`. For
    an exact size ("WxH"), "auto" chooses the tier by the number of pixels, and `ceiling` has no
    effect.

    `context` is the width of the context on each side of the selection, in pixels. None means
    CONTEXT_SHARE of the selection's diagonal, and at least CONTEXT_FLOOR.

    Raises UserError if the selection lies outside the picture, or the size is not possible.
    """
    size = check_size(size)
    wanted = selection.intersection(extent)
    if wanted.empty:
        raise UserError(_("The selection is outside the picture. Select a part of the picture."))
    if context is None:
        diagonal = math.hypot(wanted.width, wanted.height)
        context = max(CONTEXT_FLOOR, round(CONTEXT_SHARE * diagonal))
    inner = wanted.grown(context).intersection(extent)

    def tier_of(width: int, height: int, ratio: str) -> str:
        return resolution if resolution != "auto" else _tier(ratio, width, height, ceiling)

    def price(brought: tuple[int, int, str]) -> tuple[int, int]:
        return TIERS.index(tier_of(*brought)), _cost(brought[0], brought[1], extent)

    if size == "auto":
        width, height, ratio = min((_brought_to(name, inner) for name in RATIOS), key=price)
    else:
        width, height, ratio = _brought_to(size, inner)
    box = Box(
        _shifted(inner.x, inner.width, width, extent.x, extent.width),
        _shifted(inner.y, inner.height, height, extent.y, extent.height),
        width,
        height,
    )
    if "x" in ratio:
        answer = _numbers(ratio, "x")
        tier = resolution
        if tier == "auto":
            tier = next((t for t in TIERS if _area(RATIOS["1:1"][t]) >= _area(answer)), TIERS[-1])
    else:
        tier = tier_of(width, height, ratio)
        answer = RATIOS[ratio][tier]
    scale = min(1.0, answer[0] / width, answer[1] / height)
    if scale > 1 - RATIO_TOLERANCE:
        upload = (width, height)
    else:
        upload = (max(1, round(width * scale)), max(1, round(height * scale)))
    return Region(box, box.intersection(extent), ratio, tier, answer, upload)


def _area(size: tuple[int, int]) -> int:
    return size[0] * size[1]


def _numbers(text: str, separator: str) -> tuple[int, int]:
    left, right = text.split(separator)
    return int(left), int(right)


def _brought_to(size: str, inner: Box) -> tuple[int, int, str]:
    """Return the smallest (width, height, size) of a box that has the ratio of `size`.

    `inner` must fit into this box. The returned size is `size`.
    """
    across, down = _numbers(size, "x" if "x" in size else ":")
    ratio = across / down
    height = max(inner.height, math.ceil(inner.width / ratio / (1 + RATIO_TOLERANCE)))
    # For a small height, there is not always a width in whole pixels that is close enough to the
    # ratio, so try larger heights. The loop ends, because a multiple of `down` fits exactly.
    while True:
        width = max(inner.width, math.ceil(height * ratio / (1 + RATIO_TOLERANCE)))
        if width <= height * ratio * (1 + RATIO_TOLERANCE):
            return width, height, size
        height += 1


def _cost(width: int, height: int, extent: Box) -> int:
    """Return the number of pixels sent. Pixels outside the picture are counted five times."""
    inside = min(width, extent.width) * min(height, extent.height)
    return inside + 5 * (width * height - inside)


def _tier(ratio: str, width: int, height: int, ceiling: str) -> str:
    allowed = TIERS[: TIERS.index(ceiling) + 1]
    for tier in allowed:
        most = RATIOS[ratio][tier]
        if max(width / most[0], height / most[1]) <= 1 + RATIO_TOLERANCE:
            return tier
    return allowed[-1]


def _shifted(start: int, length: int, wanted: int, low: int, whole: int) -> int:
    """Return the start of an interval that grows from `length` to `wanted` pixels.

    The interval grows evenly on both sides of [start, start + length), and is then shifted into the
    picture, which is [low, low + whole). If the interval is longer than the picture, it is centred
    on the picture instead.
    """
    begin = start - (wanted - length) // 2
    if wanted >= whole:
        return low - (wanted - whole) // 2
    return min(max(begin, low), low + whole - wanted)
