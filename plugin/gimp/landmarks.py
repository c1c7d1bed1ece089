"""Where exported pixels went: users crop, move, resize and flip while the service thinks.

Nothing in GIMP says what became of a place in a layer. So short runs of its pixels are remembered,
and looked for. Where they are not found any more, the layer has either got new colours, and the
place is the old one, or been reshaped: a small picture of the whole tells these apart.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import astuple, dataclass
from typing import Any, NamedTuple

from gi.repository import Gimp

from plugin.gimp import pixels
from plugin.gimp.pixels import Picture
from plugin.region import Box, whole_numbers

_RUN = 24
"""Pixels in a row that are remembered together."""
_ROWS, _COLUMNS = 24, 16
"""The grid on which they are taken; of every row the two best."""
_MOST_PLACES = 200
"""What a run is found in more often says nothing."""
_ENOUGH = 3
_MAJORITY = 0.5
"""So many in the old place need no search elsewhere, whatever was painted over."""
_GLANCE = 24
"""Values of the longer side of a look."""
_SAMPLES = 4
"""Pixels of GIMP's thumbnail for each, across and down: it doesn't average deep images."""
_SURELY = 0.8
"""Correlation from which on two looks show the same."""
_HARDLY = 0.7
"""Below it, something else is to be seen than was before."""


class Look(NamedTuple):
    """A layer or an image at a glance: lightness over white, in rows."""

    width: int
    height: int
    values: tuple[int, ...]


@dataclass(frozen=True)
class Landmarks:
    """What tells where the pixels of `box` are: taken from one picture, looked for in another.

    `size` is (width, height) of the layer or image, `look` its content at a glance; `runs` are
    (x, y, bytes), from the origin of the box.
    """

    box: Box
    size: tuple[int, int]
    look: Look
    runs: tuple[tuple[int, int, bytes], ...]

    def to_json(self) -> dict[str, Any]:
        """Return them as the object that `from_json` reads."""
        return {
            "box": astuple(self.box),
            "size": self.size,
            "look": self.look,
            "runs": [(x, y, run.hex()) for x, y, run in self.runs],
        }

    @staticmethod
    def from_json(saved: dict[str, Any]) -> Landmarks:
        """Read them again. Raises KeyError, TypeError or ValueError if they are damaged."""
        width, height, values = saved["look"]
        across, down = whole_numbers(saved["size"], 2)
        look = Look(width, height, tuple(whole_numbers(values, width * height)))
        runs = []
        for x, y, run in saved["runs"]:
            x, y = whole_numbers([x, y], 2)
            runs.append((x, y, bytes.fromhex(run)))
        return Landmarks(Box.from_json(saved["box"]), (across, down), look, tuple(runs))


def take(seen: Look, size: tuple[int, int], picture: Picture, box: Box) -> Landmarks:
    """Remember `box` of `picture`, which is exported of a thing of that size and look."""
    length = min(_RUN, box.width)
    runs = []
    for y in range(0, box.height, max(1, box.height // _ROWS)):
        row = _read(picture, Box(box.x, box.y + y, box.width, 1))
        step = max(length, box.width // _COLUMNS)
        here = [
            (_colours(run := row[4 * x : 4 * (x + length)]), x, run)
            for x in range(0, box.width - length + 1, step)
        ]
        here.sort(key=lambda each: -each[0])
        runs += [(x, y, run) for colours, x, run in here[:2] if colours > max(2, length // 4)]
    return Landmarks(box, size, seen, tuple(runs))


def _read(picture: Picture, box: Box) -> bytes:
    """The pixels of `box` as RGBA of 8 bits."""
    values = pixels.srgb(picture, box)
    if picture.alpha:
        return values
    # GEGL can add it too, but needs up to half a second to find out how, in every process.
    whole = bytearray(b"\xff") * (len(values) // 3 * 4)
    for channel in range(3):
        whole[channel::4] = values[channel::3]
    return bytes(whole)


def _colours(run: bytes) -> int:
    return len({run[i : i + 4] for i in range(0, len(run), 4)})


def unmoved(marks: Landmarks, thing: Gimp.Layer | Gimp.Image) -> bool:
    """Whether `thing` looks just as it did, without a closer look at its pixels."""
    return (thing.get_width(), thing.get_height()) == marks.size and glance(thing) == marks.look


def find(
    marks: Landmarks,
    thing: Gimp.Layer | Gimp.Image,
    pictures: Iterable[Picture],
    likely: Box,
) -> Box | None:
    """Return where the pixels of `marks.box` are now, in the same kind of coordinates.

    `pictures` show `thing`, or its part at that box, in the ways that may show them again. Of
    several equal copies the one in the old place or at `likely` is taken. None if that can't be
    told.
    """
    box = marks.box
    whole = Box(0, 0, thing.get_width(), thing.get_height())
    for picture in pictures:
        if marks.runs and _matching(marks, picture) >= _MAJORITY * len(marks.runs):
            return box
        if pixels.covered(picture.buffer) != whole:
            continue
        votes = _votes(marks, picture)
        most = max(votes.values(), default=0)
        if most < _ENOUGH:
            continue
        best = [place for place, count in votes.items() if count == most]
        known = [place for place in ((box.x, box.y), (likely.x, likely.y)) if place in best]
        if not known and len(best) > 1:
            return None
        x, y = (known or best)[0]
        return Box(x, y, box.width, box.height)
    # Not one of its pixels is as it was: it has new colours, or another shape.
    same_size = (whole.width, whole.height) == marks.size
    return box if same_size and not _reshaped(marks.look, glance(thing)) else None


def _matching(marks: Landmarks, picture: Picture) -> int:
    box = marks.box
    return sum(
        _read(picture, Box(box.x + x, box.y + y, len(run) // 4, 1)) == run
        for x, y, run in marks.runs
    )


def _votes(marks: Landmarks, picture: Picture) -> Counter[tuple[int, int]]:
    """For every origin of the box that a run speaks for, how many do."""
    places: list[list[tuple[int, int]]] = [[] for _run in marks.runs]
    for strip in pixels.strips(pixels.covered(picture.buffer)):
        values = _read(picture, strip)
        for (x, y, run), found in zip(marks.runs, places):
            at = values.find(run)
            while at >= 0 and len(found) <= _MOST_PLACES:
                row, column = divmod(at // 4, strip.width)
                if at % 4 == 0 and column + len(run) // 4 <= strip.width:
                    found.append((strip.x + column - x, strip.y + row - y))
                at = values.find(run, at + 1)
    return Counter(place for found in places if len(found) <= _MOST_PLACES for place in found)


def glance(thing: Gimp.Layer | Gimp.Image) -> Look:
    """Return how it looks now, from a thumbnail that GIMP makes within milliseconds."""
    side = _GLANCE * _SAMPLES
    thumbnail, across, down, bpp = thing.get_thumbnail_data(side, side)
    data = thumbnail.get_data()
    colours = bpp - 1 if bpp in (2, 4) else bpp
    width, height = max(1, across // _SAMPLES), max(1, down // _SAMPLES)
    sums = [0] * (width * height)
    for y in range(down):
        for x in range(across):
            start = (y * across + x) * bpp
            alpha = data[start + colours] if colours < bpp else 255
            lightness = sum(data[start : start + colours]) * alpha + colours * 255 * (255 - alpha)
            sums[min(y // _SAMPLES, height - 1) * width + min(x // _SAMPLES, width - 1)] += (
                lightness // colours
            )
    return Look(width, height, tuple(sums))


def _reshaped(before: Look, now: Look) -> bool:
    """Whether it was flipped, turned or exchanged rather than given new colours."""
    as_it_was = _correlation(before, now)
    if abs(as_it_was) < _HARDLY and len(set(before.values)) > 1:
        return True
    # Symmetric pictures fit either way; what was really turned fits far better.
    return any(
        (fits := _correlation(turn(before), now)) > _SURELY and 1 - fits < (1 - as_it_was) / 4
        for turn in _TURNS
    )


def _flipped(look: Look) -> Look:
    rows = [look.values[i : i + look.width] for i in range(0, len(look.values), look.width)]
    return Look(look.width, look.height, tuple(value for row in rows for value in row[::-1]))


def _half_turned(look: Look) -> Look:
    return look._replace(values=look.values[::-1])


def _transposed(look: Look) -> Look:
    columns = [look.values[x :: look.width] for x in range(look.width)]
    return Look(look.height, look.width, tuple(value for column in columns for value in column))


_TURNS: tuple[Callable[[Look], Look], ...] = (
    _flipped,
    _half_turned,
    lambda look: _flipped(_half_turned(look)),
    _transposed,
    lambda look: _flipped(_transposed(look)),
    lambda look: _half_turned(_transposed(look)),
    lambda look: _flipped(_half_turned(_transposed(look))),
)


def _correlation(one: Look, other: Look) -> float:
    """From -1 to 1; 0 where nothing can be compared."""
    if (one.width, one.height) != (other.width, other.height):
        return 0
    # Loaded here: it takes a while, and is hardly ever needed.
    import statistics

    try:
        return statistics.correlation(one.values, other.values)
    except statistics.StatisticsError:
        return 0
