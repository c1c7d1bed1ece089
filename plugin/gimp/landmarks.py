"""Find exported pixels again after the user has cropped, moved, scaled or flipped their layer.

GIMP doesn't report what happens to a position in a layer while the service works. Short runs of
pixels are therefore recorded before, and searched for later. If they are not found any more, either
the layer got new colours and the position is unchanged, or the layer was reshaped. A small picture
of the whole layer shows which of the two happened.
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
"""The number of adjacent pixels in a run."""
_ROWS, _COLUMNS = 24, 16
"""The rows and columns of the grid on which runs are taken. Each row keeps its best two."""
_MOST_PLACES = 200
"""Runs that are found at more places than this are ignored."""
_ENOUGH = 3
_MAJORITY = 0.5
"""If this share of the runs is found in the old place, no other place is searched."""
_GLANCE = 24
"""The number of values along the longer side of a look."""
_SAMPLES = 4
"""The number of pixels of GIMP's thumbnail per value, in each direction.

They are averaged here because GIMP doesn't average the pixels of deep images.
"""
_SURELY = 0.8
"""The correlation above which two looks show the same thing."""
_HARDLY = 0.7
"""The correlation below which two looks show different things."""


class Look(NamedTuple):
    """A coarse picture of a layer or an image: its lightness over white, row by row.

    Each value is the sum of lightness × 255 over the thumbnail's pixels in one cell.
    """

    width: int
    height: int
    values: tuple[int, ...]


@dataclass(frozen=True)
class Landmarks:
    """The data by which the pixels of `box` are found again in a later picture.

    `size` is the (width, height) of the layer or image, and `look` a coarse picture of it. Each of
    the `runs` is (x, y, bytes), with its position relative to the box and its pixels as RGBA with 8
    bits per channel.
    """

    box: Box
    size: tuple[int, int]
    look: Look
    runs: tuple[tuple[int, int, bytes], ...]

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object that `from_json` can read."""
        return {
            "box": astuple(self.box),
            "size": self.size,
            "look": self.look,
            "runs": [(x, y, run.hex()) for x, y, run in self.runs],
        }

    @staticmethod
    def from_json(saved: dict[str, Any]) -> Landmarks:
        """Read an object that `to_json` returned.

        Raises KeyError, TypeError or ValueError if the object is damaged.
        """
        width, height, values = saved["look"]
        across, down = whole_numbers(saved["size"], 2)
        look = Look(width, height, tuple(whole_numbers(values, width * height)))
        runs = []
        for x, y, run in saved["runs"]:
            x, y = whole_numbers([x, y], 2)
            runs.append((x, y, bytes.fromhex(run)))
        return Landmarks(Box.from_json(saved["box"]), (across, down), look, tuple(runs))


def take(seen: Look, size: tuple[int, int], picture: Picture, box: Box) -> Landmarks:
    """Record the landmarks of `box` in `picture`.

    `size` and `seen` are the (width, height) and the look of the layer or image that `picture` was
    exported from.
    """
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
    """Return the pixels of `box` as sRGB with alpha, 8 bits per channel."""
    values = pixels.srgb(picture, box)
    if picture.alpha:
        return values
    # GEGL can add the alpha channel too, but each process needs up to half a second to find the
    # conversion.
    whole = bytearray(b"\xff") * (len(values) // 3 * 4)
    for channel in range(3):
        whole[channel::4] = values[channel::3]
    return bytes(whole)


def _colours(run: bytes) -> int:
    return len({run[i : i + 4] for i in range(0, len(run), 4)})


def unmoved(marks: Landmarks, thing: Gimp.Layer | Gimp.Image) -> bool:
    """Return whether the size and the look of `thing` are unchanged.

    Its pixels are not compared.
    """
    return (thing.get_width(), thing.get_height()) == marks.size and glance(thing) == marks.look


def find(
    marks: Landmarks,
    thing: Gimp.Layer | Gimp.Image,
    pictures: Iterable[Picture],
    likely: Box,
) -> Box | None:
    """Return where the pixels of `marks.box` are now, or None if this can't be determined.

    The box is in the coordinates of `thing`, like `marks.box`. Each of `pictures` shows all of
    `thing`, or the part at `marks.box`, in a way in which the exported pixels may appear again. If
    there are several equal copies of the pixels, the one in the old place or at `likely` is
    returned.
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
    # No picture has enough of the runs: `thing` has new colours or another shape.
    same_size = (whole.width, whole.height) == marks.size
    return box if same_size and not _reshaped(marks.look, glance(thing)) else None


def _matching(marks: Landmarks, picture: Picture) -> int:
    box = marks.box
    return sum(
        _read(picture, Box(box.x + x, box.y + y, len(run) // 4, 1)) == run
        for x, y, run in marks.runs
    )


def _votes(marks: Landmarks, picture: Picture) -> Counter[tuple[int, int]]:
    """Count, for each possible origin of the box, how many runs were found that imply it."""
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
    """Return the current look, from a thumbnail that GIMP makes within milliseconds."""
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
    """Return whether the content was flipped, rotated or exchanged, not just recoloured."""
    as_it_was = _correlation(before, now)
    if abs(as_it_was) < _HARDLY and len(set(before.values)) > 1:
        return True
    # A symmetric picture fits in several orientations. One that was really turned fits much better
    # in its new orientation.
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
    """Return the correlation, from -1 to 1, or 0 if the looks can't be compared."""
    if (one.width, one.height) != (other.width, other.height):
        return 0
    # Imported here because it takes a while and is rarely needed.
    import statistics

    try:
        return statistics.correlation(one.values, other.values)
    except statistics.StatisticsError:
        return 0
