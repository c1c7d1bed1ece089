"""Repair: it reverses what the service did to the picture beyond the edit, and nothing else."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image, ImageFilter, ImageOps

from plugin.region import Box, plan
from plugin.worker.fitting import fit
from plugin.worker.fitting.repair import Repair
from plugin.worker.sandbox.misbehaviour import PRESETS, Misbehaviour
from plugin.worker.service import upload
from tests.pure import misbehaving, scenes

DRIFT = Misbehaviour(zoom=1.03, rotation=0.7, shift=(0.012, -0.02), gain=(1.06, 1.0, 0.93))
"""As much as models do. It is easily seen."""


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
    """Return the photograph with a blue disc in its middle."""
    pixels = np.asarray(photo).copy()
    radius = min(photo.size) // 8
    cv2.circle(pixels, (photo.width // 2, photo.height // 2), radius, (40, 70, 200), -1)
    return Image.fromarray(pixels)


@pytest.fixture(params=["coffee.png", "astronaut.png", "rocket.jpg", "motorcycle_left.png"])
def photo(request: pytest.FixtureRequest, photo_files: Path) -> Image.Image:
    photo = Image.open(photo_files / request.param).convert("RGB")
    # Crop to a ratio of the service, so that exactly the photograph is sent, without padding.
    ratio = 1 if photo.width == photo.height else 1.5
    return photo.crop((0, 0, photo.width, round(photo.width / ratio)))


def _fitted(
    answer: Image.Image, photo: Image.Image, mask: Image.Image | None, repaired: bool = True
) -> np.ndarray:
    return fit.fit(answer, _sent(photo, mask), photo, mask, repaired)[0].astype(np.float32)


@pytest.mark.parametrize("factor", [0.7, 1.0, 1.7])
@pytest.mark.slow
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
@pytest.mark.slow
def test_an_answer_of_another_ratio_lands_where_it_was(photo: Image.Image, layout: str) -> None:
    mask, wanted = _centre(photo), _object(photo)
    misbehaviour = Misbehaviour(size=(720, 560), layout=layout)  # type: ignore[arg-type]
    answer = misbehaviour.apply(wanted)
    placed, notes = fit.fit(answer, _sent(photo, mask), photo, mask, True)
    inside = np.asarray(mask) > 0
    assert np.abs(placed - _levels(wanted))[inside].mean() < 5
    said = any("720×560 pixels and other proportions" in note for note in notes)
    assert said == (layout != "squeeze" and photo.width / photo.height != 720 / 560)


def test_where_the_answer_shows_nothing_the_picture_stays(photo: Image.Image) -> None:
    """The service cropped the picture to a square, and the selection extends beyond it."""
    wide = photo.resize((720, 360))
    mask = Image.new("L", wide.size, 0)
    mask.paste(255, (300, 60, 720, 300))
    answer = Misbehaviour(size=(500, 500), layout="crop").apply(_object(wide))
    placed = _fitted(answer, wide, mask)
    assert np.abs(placed[70:290, 600:] - _levels(wide)[70:290, 600:]).max() <= 1
    # The edit itself is placed.
    assert np.abs(placed[180, 360] - (40, 70, 200)).max() < 12


@pytest.mark.parametrize("look", ["gray", "sketch", "another", "noise", "turned"])
@pytest.mark.parametrize("selected", [True, False])
@pytest.mark.slow
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
    # Don't check near the selection's edge. If both pictures happen to be alike there, the original
    # may fade in.
    assert np.abs(_fitted(answer, photo, mask) - _levels(answer))[deep].max() <= 2


def test_a_tone_that_is_the_edit_stays(photo: Image.Image) -> None:
    warm = Misbehaviour(gain=(1.08, 1.0, 0.86)).apply(photo)
    placed = _fitted(warm, photo, _centre(photo))
    assert np.abs(placed - _levels(warm)).mean() < 1


@pytest.mark.slow
def test_a_faint_edit_stays(photo: Image.Image) -> None:
    """Smoothing, as of skin, is an edit that removes detail. Repair must not bring it back."""
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


@pytest.mark.slow
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


@pytest.mark.slow
def test_a_picture_without_texture_is_not_moved_far_by_chance(photo_files: Path) -> None:
    """Nearly all of a product on white is new, so little is left for the registration."""
    pictures = misbehaving.photographs(photo_files)
    case = misbehaving.Case("product", "large rectangle", 6)
    made = misbehaving.answered(case, pictures["product"], pictures["text"])
    found = misbehaving.judged(made)
    assert found is None or misbehaving.misregistration(made, found.registration.matrix)["off"] < 3


@pytest.mark.slow
def test_the_user_hears_why_a_result_could_not_be_aligned(coffee: Image.Image) -> None:
    bars = Image.new("RGB", (800, 600), (170, 190, 210))
    for x in range(0, 800, 40):
        bars.paste((110, 80, 50), (x, 0, x + 20, 600))
    moved = scenes.grainy(_levels(Misbehaviour(shift=(0.025, 0)).apply(bars)), 2)
    noise = np.random.default_rng(1).integers(0, 256, (400, 600, 3), np.uint8)
    cases = {
        "drawn the whole picture anew": (coffee, coffee.rotate(180)),
        "looks the same": (bars, moved),
        "too plain": (scenes.drawn()["sky"], Image.fromarray(noise)),
    }
    for words, (picture, answer) in cases.items():
        mask = _centre(picture)
        _placed, notes = fit.fit(answer, _sent(picture, mask), picture, mask, True)
        assert any("could not be aligned" in note and words in note for note in notes), words
    mask = _centre(coffee)
    _placed, notes = fit.fit(DRIFT.apply(coffee), _sent(coffee, mask), coffee, mask, True)
    assert notes == []


@pytest.fixture(scope="module")
def pictures(photo_files: Path) -> dict[str, Image.Image]:
    return {**scenes.photographs(photo_files), **scenes.drawn()}


@pytest.mark.parametrize("kind", misbehaving.PERFECT)
@pytest.mark.parametrize("scene", ["one edge", "horizon", "road", "fence", "circle", "dusk", "sky"])
@pytest.mark.slow
def test_what_lies_where_it_belongs_is_not_moved(
    scene: str, kind: str, pictures: dict[str, Image.Image]
) -> None:
    for selection in ("small ellipse", "half"):
        made = misbehaving.edited(misbehaving.Case(scene, selection, 3, kind), pictures)
        found = misbehaving.judged(made)
        # The error is NaN where nothing has texture.
        assert found is None or not _off(made) > 0.25


@pytest.mark.parametrize("scene", ["road", "façade", "a row of text", "line art", "building"])
@pytest.mark.slow
def test_what_is_hardly_more_than_lines_is_found(
    scene: str, pictures: dict[str, Image.Image]
) -> None:
    made = misbehaving.edited(misbehaving.Case(scene, "small ellipse", 3, "moved"), pictures)
    assert _off(made) <= 0.5


def _off(made: misbehaving.Answered) -> float:
    found = misbehaving.judged(made)
    matrix = None if found is None else found.registration.matrix
    return misbehaving.misregistration(made, matrix)["off"]


def _new_content(
    scene: str, selection: str, kind: str, pictures: dict[str, Image.Image]
) -> tuple[float, float]:
    """Return the colour difference of new content with repair and without, in ΔE2000."""
    made = misbehaving.edited(misbehaving.Case(scene, selection, 3, kind), pictures)
    found = misbehaving.judged(made)
    assert found is not None
    judge = misbehaving.Judge(made)

    def figure(repair: Repair | None) -> float:
        placed, _notes = fit.placed(made.answer, made.built, made.source, made.mask, repair)
        return judge.figures(placed)["new"]

    return figure(found), figure(None)


@pytest.mark.parametrize("kind", ["crossed", "crossed in linear light"])
@pytest.mark.parametrize("scene", ["cat", "flag", "motorcycle"])
@pytest.mark.slow
def test_colours_that_a_model_mixes_are_parted_again(
    scene: str, kind: str, pictures: dict[str, Image.Image]
) -> None:
    repaired, plain = _new_content(scene, "large rectangle", kind, pictures)
    # In linear light, clipped values are lost, so only an improvement is required.
    assert repaired <= (1.5 if kind == "crossed" else plain) and repaired < plain


@pytest.mark.parametrize("scene", ["sky", "snow", "wires", "cat"])
@pytest.mark.slow
def test_darker_corners_leave_new_content_its_colours(
    scene: str, pictures: dict[str, Image.Image]
) -> None:
    repaired, plain = _new_content(scene, "large rectangle", "vignette", pictures)
    # The wires have so few levels that the contrast is a guess. Nobody sees a difference of 0.1.
    assert repaired <= min(1.5, plain + (0.1 if scene == "wires" else 0))


@pytest.mark.parametrize("scene", ["product", "cup", "brick"])
@pytest.mark.slow
def test_a_contrast_curve_leaves_new_content_its_colours(
    scene: str, pictures: dict[str, Image.Image]
) -> None:
    repaired, plain = _new_content(scene, "background", "S-curve", pictures)
    assert repaired < 0.6 * plain


@pytest.mark.slow
def test_a_line_meets_itself_at_the_edge_of_a_bent_answer(pictures: dict[str, Image.Image]) -> None:
    for scene in ("text", "coffee", "brick"):
        case = misbehaving.Case(scene, "large rectangle", 3, "bent by 4 px")
        made = misbehaving.edited(case, pictures)
        found = misbehaving.judged(made)
        assert found is not None and found.registration.bend is not None, scene
        straight = replace(found, registration=replace(found.registration, bend=None))
        bent, plain = (
            misbehaving.Judge(made).figures(
                fit.placed(made.answer, made.built, made.source, made.mask, by)[0]
            )["kept"]
            for by in (found, straight)
        )
        assert bent < 0.75 * plain, scene


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("new", [0, 255, "checked"])
@pytest.mark.slow
def test_what_is_new_bends_nothing(seed: int, new: int | str) -> None:
    """The source is clouds, which hardly show any motion, and the answer kept them in place."""
    random = np.random.default_rng(seed)
    across, down = np.fft.rfftfreq(640)[None], np.fft.fftfreq(480)[:, None]
    frequency = np.maximum(np.hypot(across, down), 1 / 640)
    waves = np.fft.irfft2(np.fft.rfft2(random.standard_normal((480, 640))) / frequency**2)
    levels = 128 + 45 * (waves - waves.mean()) / waves.std()
    source = scenes.grainy(np.repeat(levels[..., None], 3, axis=2), 2, seed)
    answer = np.asarray(source).copy()
    inside = answer[120:360, 160:480]
    y, x = np.mgrid[:240, :320] // 20
    inside[:] = (255 * ((x + y) % 2))[..., None] if new == "checked" else new
    placed = _fitted(Image.fromarray(answer), source, _centre(source))
    deep = np.s_[150:330, 190:450]
    assert np.abs(placed[deep] - answer[deep].astype(np.float32)).max() <= 3, "black stays black"


@pytest.mark.slow
def test_an_edit_that_adds_little_does_not_keep_the_models_tone(photo: Image.Image) -> None:
    wanted = np.asarray(photo).copy()
    cv2.circle(wanted, (photo.width // 2, photo.height // 2), 7, (200, 60, 40), -1)
    answer = Misbehaviour(gain=(1.07, 1.0, 0.9)).apply(Image.fromarray(wanted))
    placed = _fitted(answer, photo, _centre(photo))
    inside = np.asarray(_centre(photo)) > 0
    assert np.abs(placed - wanted.astype(np.float32))[inside].mean() < 2


def _grainy(levels: np.ndarray, deviation: float, seed: int) -> Image.Image:
    """Return `levels` as a picture with grain, and with texture in a band at the top and bottom.

    The bands are needed for the alignment.
    """
    height, width = levels.shape[:2]
    texture = np.random.default_rng(9).uniform(-40, 40, (height // 10, width // 10, 3))
    levels = levels.astype(np.float32).copy()
    large = cv2.resize(texture, (width, height), interpolation=cv2.INTER_CUBIC)
    bands = np.r_[: height // 6, height - height // 6 : height]
    levels[bands] += large[bands]
    return scenes.grainy(levels, deviation, seed)


@pytest.mark.parametrize(
    ("camera", "model"), [(1.5, 0.0), (3.0, 0.0), (1.5, 1.5), (1.5, 3.0), (0.0, 0.0)]
)
@pytest.mark.parametrize("size", [None, (600, 450)])
@pytest.mark.slow
def test_new_content_has_the_noise_of_its_surroundings(
    camera: float, model: float, size: tuple[int, int] | None
) -> None:
    y, x = np.mgrid[:750, :1000] / 1000
    smooth = np.stack([120 + 80 * x, 130 + 60 * y, 150 + 40 * x], axis=-1)
    new = smooth.copy()
    new[(x - 0.5) ** 2 + (y - 0.37) ** 2 < 0.04] += (40, -30, 10)
    source = _grainy(smooth, camera, 1)
    answer = _grainy(new, model, 2)
    if size:
        answer = answer.resize(size, Image.Resampling.LANCZOS)
    mask = Image.new("L", source.size, 0)
    mask.paste(255, (250, 150, 750, 600))
    placed = _fitted(answer, source, mask)

    def noise(levels: np.ndarray) -> float:
        gray = levels[275:475, 400:600].mean(axis=2)
        return float((gray - cv2.GaussianBlur(gray, (0, 0), 4)).std())

    wanted, found = noise(_levels(source)), noise(placed)
    assert abs(found - wanted) <= 0.25 * wanted + 0.1


def test_a_correction_leaves_no_steps_in_a_sky() -> None:
    y, x = np.mgrid[:600, :800] / 800
    smooth = np.stack([100 + 20 * x, 140 + 20 * x, 200 + 20 * x], axis=-1)
    vignette = 1 - 0.06 * ((x - 0.5) ** 2 + (y - 0.37) ** 2)
    source = _grainy(smooth, 0, 1)
    answer = Image.fromarray(np.rint(_levels(source) * vignette[..., None]).astype(np.uint8))
    mask = Image.new("L", source.size, 0)
    mask.paste(255, (200, 150, 600, 450))
    placed = _fitted(answer, source, mask)[170:430, 220:580, 0]
    # Where one level changes to the next, pixels of both must be mixed.
    steps = np.diff(np.sort(np.median(placed, axis=0)))
    mixed = (np.diff(placed, axis=1) != 0).mean()
    assert steps.max() <= 1 and mixed > 0.1


def test_texture_is_not_taken_for_noise(
    photo_files: Path, pictures: dict[str, Image.Image]
) -> None:
    """New content with texture in a smooth picture keeps its texture."""
    smooth = {"sky": pictures["sky"], "grass": pictures["grass"].resize((1000, 750))}
    made = misbehaving.edited(misbehaving.Case("sky", "half", 2, "as sent"), smooth)
    where = cv2.erode(made.changed, np.ones((31, 31), np.uint8)) == 1
    repaired, plain = (
        np.abs(cv2.Laplacian(fit.placed(*inputs, by)[0].astype(np.float32), cv2.CV_32F))
        for inputs in [(made.answer, made.built, made.source, made.mask)]
        for by in (misbehaving.judged(made), None)
    )
    assert repaired[where].mean() >= 0.97 * plain[where].mean()


@pytest.mark.slow
def test_ten_edits_upon_each_other_change_nothing_else(pictures: dict[str, Image.Image]) -> None:
    def repaired(made: misbehaving.Answered) -> tuple[np.ndarray | None, np.ndarray]:
        found = misbehaving.judged(made)
        placed, _notes = fit.placed(made.answer, made.built, made.source, made.mask, found)
        return None if found is None else found.registration.matrix, placed

    difference, off = misbehaving.chain(pictures["coffee"], repaired)
    assert difference <= 1.0 and off <= 0.1


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.slow
def test_a_misbehaviour_is_reproducible_and_known(name: str, coffee: Image.Image) -> None:
    preset = PRESETS[name]
    first, second = preset.apply(coffee), preset.apply(coffee)
    assert first.tobytes() == second.tobytes()
    # A dot is moved to where the matrix maps it.
    dark = Image.new("RGB", coffee.size, "black")
    dark.paste((255, 255, 255), (298, 198, 303, 203))
    found = _levels(preset.apply(dark)).max(axis=2)
    x, y, _one = preset.matrix(coffee.size) @ (300, 200, 1)
    rows, columns = np.nonzero(found > 100)
    assert abs(rows.mean() - y) < 0.6 and abs(columns.mean() - x) < 0.6


@pytest.mark.campaign
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
    # Make sure that the answers needed repair.
    assert median(each["none step"] for each in figures) > 4
