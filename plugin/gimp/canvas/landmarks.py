"""Find exported pixels again after the user has cropped, moved, scaled or flipped their layer.

GIMP doesn't tell plug-ins where a position in a layer moves to while the service works. Short runs
of adjacent pixels, the landmarks, are therefore recorded before, and searched for later. If the
runs are not found any more, either the layer has new colours and the position is unchanged, or the
layer was reshaped. A small picture of the whole layer, the look, shows which of the two happened.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import astuple, dataclass
from typing import Any, NamedTuple

from gi.repository import Gimp

from plugin.gimp.canvas import pixels
from plugin.gimp.canvas.pixels import Picture
from plugin.region import Box, whole_numbers

_RUN = 24
"""The number of adjacent pixels in a run."""
_ROWS, _COLUMNS = 24, 16
"""The rows and columns of the grid on which runs are taken.

Of each row, the two runs with the most different colours are kept.
"""
_MOST_PLACES = 200
"""A run that is found at more places than this is ignored, because it is not characteristic."""
_ENOUGH = 3
"""At least this many runs must agree on a new position of the box."""
_MAJORITY = 0.5
"""If this share of the runs is found at the old position, no other position is searched."""
_GLANCE = 24
"""The number of values along the longer side of a look."""
_SAMPLES = 4
"""The number of thumbnail pixels, in each direction, from which one value of a look is made.

This module averages these pixels, because GIMP doesn't average pixels when it makes thumbnails of
images with more than 8 bits per channel.
"""
_SURELY = 0.8
"""If two looks have a higher correlation than this, they show the same content."""
_HARDLY = 0.7
"""If two looks have a lower correlation than this, they show different contents."""


class Look(NamedTuple):
    """A coarse picture of a layer or an image, in shades of gray on a white background.

    It has `width` × `height` cells, with one value for each cell, row by row. The value is the sum
    of the lightness (0 to 255) of all pixels of GIMP's thumbnail in this cell, multiplied by 255.
    """

    width: int
    height: int
    values: tuple[int, ...]


@dataclass(frozen=True)
class Landmarks:
    """The data by which the pixels of `box` are found again in a later picture.

    `size` is the (width, height) of the layer or image, and `look` is a coarse picture of the layer
    or image. Each of the `runs` is a tuple (x, y, bytes): the position relative to `box`, and the
    pixels as sRGB with alpha, 8 bits per channel.
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
    """Return the landmarks of `box` in `picture`.

    `size` is the (width, height) of the layer or image from which `picture` was exported, and
    `seen` is the look of this layer or image.
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
    """Return the pixels of `box` in `picture` as sRGB with alpha, 8 bits per channel."""
    values = pixels.srgb(picture, box)
    if picture.alpha:
        return values
    # GEGL, GIMP's image processor, could add the alpha channel too. But to find the conversion, it
    # would need up to half a second in each process.
    whole = bytearray(b"\xff") * (len(values) // 3 * 4)
    for channel in range(3):
        whole[channel::4] = values[channel::3]
    return bytes(whole)


def _colours(run: bytes) -> int:
    return len({run[i : i + 4] for i in range(0, len(run), 4)})


def unmoved(marks: Landmarks, thing: Gimp.Layer | Gimp.Image) -> bool:
    """Return whether the size and the look of `thing` are the same as when `marks` were taken.

    The pixels of `thing` are not compared.
    """
    return (thing.get_width(), thing.get_height()) == marks.size and glance(thing) == marks.look


def find(
    marks: Landmarks,
    thing: Gimp.Layer | Gimp.Image,
    pictures: Iterable[Picture],
    likely: Box,
) -> Box | None:
    """Return the box in which the pixels of `marks.box` are now, or None if it is not certain.

    The box is in the coordinates of `thing`, like `marks.box`. Each of `pictures` shows `thing` in
    another way, for example with or without its filters, because the exported pixels may appear in
    only one of them. A picture shows either all of `thing` or only the part at `marks.box`. If
    several equal copies of the pixels are found, return the one at the old position or at `likely`,
    or None if neither is among them.
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
    # No picture contains enough of the runs, so `thing` has new colours or was reshaped.
    same_size = (whole.width, whole.height) == marks.size
    return box if same_size and not _reshaped(marks.look, glance(thing)) else None


def _matching(marks: Landmarks, picture: Picture) -> int:
    box = marks.box
    return sum(
        _read(picture, Box(box.x + x, box.y + y, len(run) // 4, 1)) == run
        for x, y, run in marks.runs
    )


def _votes(marks: Landmarks, picture: Picture) -> Counter[tuple[int, int]]:
    """Count, for each possible new (x, y) of the box, how many runs were found that imply it."""
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
    """Return the current look of `thing`, made from GIMP's thumbnail within milliseconds."""
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
    """Return whether the content was flipped, rotated or exchanged, rather than only recoloured.

    `before` and `now` are the looks of a layer or image that still has the same size.
    """
    as_it_was = _correlation(before, now)
    if abs(as_it_was) < _HARDLY and len(set(before.values)) > 1:
        return True
    # A symmetric picture is similar to itself in several orientations. The picture counts as turned
    # only if it fits much better in another orientation than in the old one.
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
    """Return the correlation of two looks, from -1 to 1, or 0 if they can't be compared."""
    if (one.width, one.height) != (other.width, other.height):
        return 0
    # statistics is imported here because this takes a while and is rarely needed.
    import statistics

    try:
        return statistics.correlation(one.values, other.values)
    except statistics.StatisticsError:
        return 0
