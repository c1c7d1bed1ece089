"""The region that is sent: it contains the selection, and has a ratio and size of the service."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from plugin.errors import UserError
from plugin.limits import TIERS
from plugin.region import RATIOS, Box, Region, check_size, plan


@st.composite
def pictures(draw: st.DrawFn) -> tuple[Box, Box]:
    """Draw the extent of a picture, and the bounds of a selection inside it."""
    width, height = draw(st.integers(1, 9000)), draw(st.integers(1, 9000))
    x, y = draw(st.integers(0, width - 1)), draw(st.integers(0, height - 1))
    across = draw(st.integers(1, width - x))
    down = draw(st.integers(1, height - y))
    return Box(0, 0, width, height), Box(x, y, across, down)


def _inside(inner: Box, outer: Box) -> bool:
    return inner.intersection(outer) == inner


def _ratio(region: Region) -> float:
    across, down = (int(n) for n in region.size.replace("x", ":").split(":"))
    return across / down


@given(pictures())
@example((Box(0, 0, 100_000, 3), Box(0, 0, 100_000, 3)))
@example((Box(0, 0, 1, 1), Box(0, 0, 1, 1)))
@example((Box(0, 0, 1000, 667), Box(0, 0, 1000, 667)))
@example((Box(0, 0, 8000, 6000), Box(4000, 3000, 1, 1)))
def test_region_holds_the_selection_at_a_ratio_of_the_table(case: tuple[Box, Box]) -> None:
    extent, selection = case
    region = plan(selection, extent)
    assert _inside(selection, region.content)
    assert _inside(region.content, extent)
    assert _inside(region.content, region.box)
    assert region.size in RATIOS
    assert abs(region.box.width / region.box.height / _ratio(region) - 1) < 0.005
    assert plan(selection, extent) == region


@given(pictures())
def test_padding_only_where_the_picture_ends(case: tuple[Box, Box]) -> None:
    extent, selection = case
    box = plan(selection, extent).box
    if box.x < extent.x or box.right > extent.right:
        assert box.x <= extent.x and box.right >= extent.right
    if box.y < extent.y or box.bottom > extent.bottom:
        assert box.y <= extent.y and box.bottom >= extent.bottom


@given(pictures(), st.sampled_from(TIERS))
def test_the_smallest_tier_that_loses_nothing(case: tuple[Box, Box], ceiling: str) -> None:
    extent, selection = case
    region = plan(selection, extent, ceiling=ceiling)
    assert TIERS.index(region.resolution) <= TIERS.index(ceiling)
    if region.upload != (region.box.width, region.box.height):
        assert region.resolution == ceiling
        assert region.upload[0] <= region.answer[0] and region.upload[1] <= region.answer[1]
    smaller = TIERS[: TIERS.index(region.resolution)]
    for tier in smaller:
        width, height = RATIOS[region.size][tier]
        assert region.box.width > width or region.box.height > height


@given(pictures(), st.data())
@example((Box(0, 0, 100, 100), Box(0, 0, 100, 66)), Box(0, 0, 100, 60))
@example((Box(0, 0, 2025, 2852), Box(12, 1297, 2007, 1495)), Box(15, 1779, 1933, 884))
def test_selecting_more_never_sends_less(case: tuple[Box, Box], data: Any) -> None:
    extent, selection = case
    if isinstance(data, Box):
        part = data
    else:
        left = data.draw(st.integers(selection.x, selection.right - 1))
        top = data.draw(st.integers(selection.y, selection.bottom - 1))
        right = data.draw(st.integers(left + 1, selection.right))
        bottom = data.draw(st.integers(top + 1, selection.bottom))
        part = Box(left, top, right - left, bottom - top)
    assert _cost(plan(part, extent)) <= _cost(plan(selection, extent))


def _cost(region: Region) -> tuple[int, int]:
    """Return the tier, which decides the price, and the number of pixels.

    Pixels of the padding, which repeats the picture's edge, count five times.
    """
    sent = region.box.width * region.box.height
    padding = sent - region.content.width * region.content.height
    return TIERS.index(region.resolution), sent + 4 * padding


@given(pictures(), st.integers(0, 300))
def test_the_context_that_is_asked_for(case: tuple[Box, Box], context: int) -> None:
    extent, selection = case
    region = plan(selection, extent, context=context)
    assert _inside(selection.grown(context).intersection(extent), region.content)
    assert _cost(region) <= _cost(plan(selection, extent, context=context + 1))


def test_no_dearer_tier_than_some_ratio_needs() -> None:
    # 5:4 needs fewer pixels for this selection, but 1:1 fits into a tier that costs half as much.
    region = plan(Box(1921, 1009, 1579, 1133), Box(0, 0, 4032, 3024))
    assert (region.size, region.resolution) == ("1:1", "2k")
    assert region.upload == (region.box.width, region.box.height)


def test_a_selection_in_the_middle_takes_context_along() -> None:
    region = plan(Box(1000, 1000, 200, 200), Box(0, 0, 4000, 3000))
    assert region.box.x <= 1000 - 64 and region.box.right >= 1200 + 64
    assert region.box.y <= 1000 - 64 and region.box.bottom >= 1200 + 64
    assert region.box == region.content
    assert region.upload == (region.box.width, region.box.height)


def test_a_selection_in_a_corner_is_not_padded() -> None:
    region = plan(Box(0, 0, 300, 100), Box(0, 0, 4000, 3000))
    assert region.box == region.content


def test_a_whole_picture_of_a_known_ratio_goes_as_it_is() -> None:
    whole = Box(0, 0, 1920, 1080)
    region = plan(whole, whole)
    assert (region.box, region.size, region.resolution) == (whole, "16:9", "2k")


def test_the_users_choices_are_kept() -> None:
    extent = Box(0, 0, 4000, 3000)
    selection = Box(1000, 1000, 900, 100)
    upright = plan(selection, extent, size="9:16", resolution="2k")
    assert (upright.size, upright.resolution, upright.answer) == ("9:16", "2k", (1152, 2048))
    exact = plan(selection, extent, size="1280X640")
    assert (exact.size, exact.answer) == ("1280x640", (1280, 640))
    assert abs(exact.box.width / exact.box.height - 2) < 0.01


@pytest.mark.parametrize(
    "size", ["big", "1000x1000", "4096x4096", "64x64", "3200x800", "7:1", "0x0"]
)
def test_an_impossible_size_is_told(size: str) -> None:
    with pytest.raises(UserError, match=r"size|can't make"):
        check_size(size)


def test_a_selection_beside_the_picture_is_told() -> None:
    with pytest.raises(UserError, match="outside"):
        plan(Box(-50, 0, 40, 40), Box(0, 0, 100, 100))


@given(pictures())
def test_it_survives_the_job_folder(case: tuple[Box, Box]) -> None:
    extent, selection = case
    region = plan(selection, extent)
    assert Region.from_json(asdict(region)) == region
