"""Repair: what the service did to the picture beyond the edit is undone, and nothing else is."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image, ImageFilter, ImageOps

from plugin.region import Box, plan
from plugin.worker import placement, upload
from plugin.worker.sandbox.misbehaviour import PRESETS, Misbehaviour
from tests.pure import misbehaving

DRIFT = Misbehaviour(zoom=1.03, rotation=0.7, shift=(0.012, -0.02), gain=(1.06, 1.0, 0.93))
"""As bad as models are, and easily seen."""


def _levels(image: Image.Image) -> np.ndarray:
    return np.asarray(image, np.float32)


def _sent(photo: Image.Image, mask: Image.Image | None) -> upload.Upload:
    whole = Box(0, 0, *photo.size)
    return upload.build(plan(whole, whole), photo, mask, [])


def _centre(photo: Image.Image) -> Image.Image:
    mask = Image.new("L", photo.size, 0)
    width, height = photo.size
    mask.paste(255, (width // 4, height // 4, 3 * width // 4, 3 * height // 4))
    return mask


def _object(photo: Image.Image) -> Image.Image:
    """The photograph with a blue disc in its middle."""
    pixels = np.asarray(photo).copy()
    radius = min(photo.size) // 8
    cv2.circle(pixels, (photo.width // 2, photo.height // 2), radius, (40, 70, 200), -1)
    return Image.fromarray(pixels)


@pytest.fixture(params=["coffee.png", "astronaut.png", "rocket.jpg", "motorcycle_left.png"])
def photo(request: pytest.FixtureRequest, photo_files: Path) -> Image.Image:
    photo = Image.open(photo_files / request.param).convert("RGB")
    # A ratio of the service's, so that what is sent is the photograph and nothing else.
    ratio = 1 if photo.width == photo.height else 1.5
    return photo.crop((0, 0, photo.width, round(photo.width / ratio)))


def _fitted(
    answer: Image.Image, photo: Image.Image, mask: Image.Image | None, repaired: bool = True
) -> np.ndarray:
    return placement.fit(answer, _sent(photo, mask), photo, mask, repaired)[0].astype(np.float32)


@pytest.mark.parametrize("factor", [0.7, 1.0, 1.7])
def test_drift_and_tone_are_undone(photo: Image.Image, factor: float) -> None:
    mask, wanted = _centre(photo), _object(photo)
    size = (round(photo.width * factor), round(photo.height * factor))
    answer = DRIFT.apply(wanted.resize(size, Image.Resampling.LANCZOS))
    inside = np.asarray(mask) > 0
    plain, repaired = (
        np.abs(_fitted(answer, photo, mask, on) - _levels(wanted))[inside].mean()
        for on in (False, True)
    )
    assert repaired < 0.3 * plain and repaired < 4


@pytest.mark.parametrize("layout", ["squeeze", "crop", "extend"])
def test_an_answer_of_another_ratio_lands_where_it_was(photo: Image.Image, layout: str) -> None:
    mask, wanted = _centre(photo), _object(photo)
    misbehaviour = Misbehaviour(size=(720, 560), layout=layout)  # type: ignore[arg-type]
    answer = misbehaviour.apply(wanted)
    placed, notes = placement.fit(answer, _sent(photo, mask), photo, mask, True)
    inside = np.asarray(mask) > 0
    assert np.abs(placed - _levels(wanted))[inside].mean() < 5
    said = any("another ratio (720×560)" in note for note in notes)
    assert said == (layout != "squeeze" and photo.width / photo.height != 720 / 560)


def test_where_the_answer_shows_nothing_the_picture_stays(photo: Image.Image) -> None:
    """The service cut a picture to a square; the selection reaches beyond it."""
    wide = photo.resize((720, 360))
    mask = Image.new("L", wide.size, 0)
    mask.paste(255, (300, 60, 720, 300))
    answer = Misbehaviour(size=(500, 500), layout="crop").apply(_object(wide))
    placed = _fitted(answer, wide, mask)
    assert np.abs(placed[70:290, 600:] - _levels(wide)[70:290, 600:]).max() <= 1
    # And the edit is there.
    assert np.abs(placed[180, 360] - (40, 70, 200)).max() < 12


@pytest.mark.parametrize("look", ["gray", "sketch", "another", "noise", "turned"])
@pytest.mark.parametrize("selected", [True, False])
def test_a_picture_made_anew_is_left_alone(
    photo: Image.Image, coffee: Image.Image, look: str, selected: bool
) -> None:
    gray = ImageOps.grayscale(photo).convert("RGB")
    generator = np.random.default_rng(1)
    answer = {
        "gray": gray,
        "sketch": ImageOps.invert(gray.filter(ImageFilter.FIND_EDGES)),
        "another": ImageOps.mirror(coffee).resize(photo.size),
        "noise": Image.fromarray(
            generator.integers(0, 256, (photo.height, photo.width, 3), np.uint8)
        ),
        "turned": photo.rotate(180),
    }[look]
    mask = _centre(photo) if selected else None
    deep = np.asarray(_centre(photo).filter(ImageFilter.MinFilter(31))) > 0
    # At the selection's edge the original may run in, where both happen to be alike.
    assert np.abs(_fitted(answer, photo, mask) - _levels(answer))[deep].max() <= 2


def test_a_tone_that_is_the_edit_stays(photo: Image.Image) -> None:
    warm = Misbehaviour(gain=(1.08, 1.0, 0.86)).apply(photo)
    placed = _fitted(warm, photo, _centre(photo))
    assert np.abs(placed - _levels(warm)).mean() < 1


def test_a_faint_edit_stays(photo: Image.Image) -> None:
    """Smoothed skin is nothing but detail that is gone: none of it may come back."""
    mask = _centre(photo)
    smooth = Image.composite(photo.filter(ImageFilter.GaussianBlur(2)), photo, mask)
    deep = np.asarray(mask.filter(ImageFilter.MinFilter(41))) > 0
    for factor in (1.0, 0.6):
        size = (round(photo.width * factor), round(photo.height * factor))
        answer = smooth.resize(size, Image.Resampling.LANCZOS)
        placed = _fitted(answer, photo, mask)
        texture = [
            np.abs(cv2.Laplacian(_levels(Image.fromarray(p.astype(np.uint8))), cv2.CV_32F))[deep]
            for p in (placed, _levels(smooth), _levels(photo))
        ]
        placed_has, smooth_has, photo_has = (float(values.mean()) for values in texture)
        assert placed_has < smooth_has + 0.2 * (photo_has - smooth_has)


def test_without_a_selection_a_local_edit_is_put_in_place(photo: Image.Image) -> None:
    wanted = _object(photo)
    bad = Misbehaviour(zoom=1.02, rotation=0.5, shift=(0.01, -0.01))
    plain, repaired = (
        np.abs(_fitted(bad.apply(wanted), photo, None, on) - _levels(wanted)).mean()
        for on in (False, True)
    )
    assert repaired < 0.4 * plain


def test_what_a_small_answer_kept_is_as_sharp_as_before(photo: Image.Image) -> None:
    mask, wanted = _centre(photo), _object(photo)
    size = (photo.width // 2, photo.height // 2)
    answer = wanted.resize(size, Image.Resampling.LANCZOS)
    away = np.asarray(_object(Image.new("RGB", photo.size)))[..., 2] == 0
    away = cv2.erode(away.astype(np.uint8), np.ones((31, 31), np.uint8)) > 0
    where = (np.asarray(mask) > 0) & away
    plain, repaired = (
        np.abs(_fitted(answer, photo, mask, on) - _levels(wanted))[where].mean()
        for on in (False, True)
    )
    assert repaired < 0.85 * plain


def test_a_picture_without_texture_is_not_moved_far_by_chance(photo_files: Path) -> None:
    """A product on white, nearly all of it painted over: little tells where it lies."""
    pictures = misbehaving.photographs(photo_files)
    case = misbehaving.Case("product", "large rectangle", 6)
    made = misbehaving.answered(case, pictures["product"], pictures["text"])
    found = placement.judged(made.answer, made.built)
    assert found is None or misbehaving.misregistration(made, found)["off"] < 3


def test_the_user_hears_what_could_not_be_aligned(coffee: Image.Image) -> None:
    mask = _centre(coffee)
    _placed, notes = placement.fit(coffee.rotate(180), _sent(coffee, mask), coffee, mask, True)
    assert any("could not be aligned" in note for note in notes)
    _placed, notes = placement.fit(DRIFT.apply(coffee), _sent(coffee, mask), coffee, mask, True)
    assert notes == []


@pytest.mark.parametrize("name", PRESETS)
def test_a_misbehaviour_is_reproducible_and_known(name: str, coffee: Image.Image) -> None:
    preset = PRESETS[name]
    first, second = preset.apply(coffee), preset.apply(coffee)
    assert first.tobytes() == second.tobytes()
    # A dot lands where the matrix says.
    dark = Image.new("RGB", coffee.size, "black")
    dark.paste((255, 255, 255), (298, 198, 303, 203))
    found = _levels(preset.apply(dark)).max(axis=2)
    x, y, _one = preset.matrix(coffee.size) @ (300, 200, 1)
    rows, columns = np.nonzero(found > 100)
    assert abs(rows.mean() - y) < 0.6 and abs(columns.mean() - x) < 0.6


def test_a_slice_of_the_campaign_holds_what_the_readme_says(photo_files: Path) -> None:
    pictures = misbehaving.photographs(photo_files)
    figures = [
        misbehaving.compared(misbehaving.Case(photograph, selection, 1), pictures)
        for photograph in pictures
        for selection in misbehaving.SELECTIONS
    ]

    def median(values: Iterable[float]) -> float:
        return float(np.nanmedian(list(values)))

    assert not [each for each in figures if misbehaving.worse(each)]
    assert median(each["off"] for each in figures) <= 0.15
    assert median(each["repair kept"] / each["inverse kept"] for each in figures) <= 1.3
    assert median(each["repair step"] for each in figures) <= 1.0
    assert median(each["repair new"] for each in figures) <= 2.0
    # And it is no small thing that is undone here.
    assert median(each["none step"] for each in figures) > 4
