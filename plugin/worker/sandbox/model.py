"""The sandbox's "model": it edits pictures in the ways, called *looks*, that a prompt names.

The looks are classical photographic edits, without machine learning. But like the AI model of the
real service, this model resamples and redraws the whole picture, even the pixels that the mask
tells it to keep.

In this module, a picture is a float32 array (height, width, 3) of sRGB-encoded values from 0 to 1.
An area is a float32 array (height, width) that is 1 where the picture is to be edited, and 0 where
it is to be kept.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from plugin.worker.sandbox.removal import fill

Array = np.ndarray[Any, Any]

LUMA = np.array([0.2126, 0.7152, 0.0722], np.float32)

# If the ratio of a picture differs from the ratio of the answer by at most this share, the picture
# is stretched to the answer's ratio. Otherwise it is cropped to the answer's ratio.
STRETCH = 0.03


def is_echo(prompt: str) -> bool:
    """Return whether the prompt asks to return the first picture without an edit.

    Such a prompt has the word `echo` as its first line.
    """
    return prompt.strip().partition("\n")[0].strip().lower() == "echo"


def edit(
    prompt: str,
    pictures: Sequence[Image.Image],
    mask: Image.Image | None,
    size: tuple[int, int],
) -> Image.Image:
    """Edit the first of `pictures` as `prompt` says, and return the edited picture.

    The returned picture is RGB of `size`, (width, height). `pictures` have 8 bits per channel, are
    treated as sRGB, and can have any sizes. All pictures after the first are references for the
    style. `mask` covers the whole first picture. If the mask has transparent pixels, these mark
    where to edit; otherwise white pixels do. Without a mask, the whole picture is edited.

    All looks that the prompt names are applied, one after the other. If the prompt names none, the
    plain look is applied. The same arguments always lead to the same picture.
    """
    frame = _frame(pictures[0].size, size)
    picture = _redrawn(_pixels(_fitted(_rgb(pictures[0]), size, frame)))
    scene = _Scene(
        picture=picture,
        area=None if mask is None else _area(mask, size, frame),
        references=[_pixels(_thumbnail(_rgb(other))) for other in pictures[1:]],
    )
    looks = [look for words, look in _LOOKS if words.search(prompt)] or [_plain]
    for look in looks:
        scene = replace(scene, picture=look(scene))
    edited = scene.picture
    if scene.area is not None:
        edited = picture + scene.area[..., None] * (edited - picture)
    edited = edited + _noise(edited, 1.0, seed=1)[..., None] * np.float32(1.3 / 255)
    return Image.fromarray(_bytes(edited))


def at_size(picture: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Return `picture` as RGB of `size`, (width, height), resampled but not edited or redrawn."""
    return _fitted(_rgb(picture), size, _frame(picture.size, size))


@dataclass(frozen=True)
class _Scene:
    """The input of a look.

    It consists of the picture after the looks that were already applied, of the area to edit (or
    None for the whole picture), and of the references for the style.
    """

    picture: Array
    area: Array | None
    references: list[Array]

    @property
    def unit(self) -> float:
        """A thousandth of the picture's shorter side, in pixels.

        All looks measure lengths in this unit, so that they look the same at any size.
        """
        return min(self.picture.shape[:2]) / 1000


# --- Convert pictures to arrays and back ------------------------------------------------------


def _rgb(image: Image.Image) -> Image.Image:
    """Return the picture as RGB, with white behind transparent pixels."""
    if not image.has_transparency_data:
        return image.convert("RGB")
    image = image.convert("RGBA")
    white = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(white, image).convert("RGB")


def _frame(size: tuple[int, int], target: tuple[int, int]) -> tuple[float, float, float, float]:
    """Return the box of a picture that is used for the answer.

    The box is (left, top, right, bottom), as shares of the picture's width and height. `size` is
    the (width, height) of the picture, and `target` is the (width, height) of the answer.
    """
    shape = (size[0] / size[1]) / (target[0] / target[1])
    if abs(shape - 1) <= STRETCH:
        return 0, 0, 1, 1
    width, height = min(1, 1 / shape), min(1, shape)
    return (1 - width) / 2, (1 - height) / 2, (1 + width) / 2, (1 + height) / 2


def _fitted(
    image: Image.Image, size: tuple[int, int], frame: tuple[float, float, float, float]
) -> Image.Image:
    """Return the part of the image in the box `frame`, resampled to `size`, (width, height)."""
    width, height = image.size
    box = (frame[0] * width, frame[1] * height, frame[2] * width, frame[3] * height)
    return image.resize(size, Image.Resampling.BICUBIC, box)


def _thumbnail(image: Image.Image) -> Image.Image:
    image.thumbnail((256, 256))
    return image


def _area(
    mask: Image.Image, size: tuple[int, int], frame: tuple[float, float, float, float]
) -> Array:
    """Return the area that `mask` marks, grown by a few pixels.

    The area is grown because the real service also paints a little beyond the mask. `size` is the
    (width, height) of the answer, and `frame` is the box of the mask that is used.
    """
    grey = mask.convert("L")
    if mask.has_transparency_data:
        alpha = mask.convert("RGBA").getchannel("A")
        if np.asarray(alpha).min() < 255:
            grey = ImageOps.invert(alpha)
    area = _pixels(_fitted(grey, size, frame))
    unit = min(size) / 1000
    area = cv2.dilate(area, _disc(1 + 2 * unit))
    return _blurred(area, 1.5 * unit)


def _pixels(image: Image.Image) -> Array:
    return np.asarray(image, np.float32) / np.float32(255)


def _bytes(picture: Array) -> NDArray[np.uint8]:
    return (picture * 255 + 0.5).clip(0, 255).astype(np.uint8)


# --- Change arrays in simple ways -------------------------------------------------------------


def _luma(picture: Array) -> Array:
    return cv2.transform(picture, LUMA[None]).reshape(picture.shape[:2])


def _blurred(picture: Array, sigma: float) -> Array:
    """Return the picture after a Gaussian blur with a standard deviation of `sigma` pixels.

    To save time, a wide blur is computed on a smaller copy. This makes no visible difference.
    """
    step = int(sigma / 4)
    if step < 2:
        return cv2.GaussianBlur(picture, (0, 0), max(sigma, 0.3))
    height, width = picture.shape[:2]
    small = (max(1, width // step), max(1, height // step))
    shrunk = cv2.resize(picture, small, interpolation=cv2.INTER_AREA)
    shrunk = cv2.GaussianBlur(shrunk, (0, 0), sigma / step)
    return cv2.resize(shrunk, (width, height), interpolation=cv2.INTER_CUBIC)


def _disc(radius: float) -> NDArray[np.uint8]:
    """Return a small array with a disc of ones. `radius` is the disc's radius in pixels."""
    reach = max(1, round(radius))
    y, x = np.ogrid[-reach : reach + 1, -reach : reach + 1]
    return (x * x + y * y <= (reach + 0.4) ** 2).astype(np.uint8)


def _smoothstep(low: float, high: float, values: Array) -> Array:
    """Return numbers that rise smoothly from 0, for the value `low`, to 1, for `high`."""
    t = ((values - np.float32(low)) / np.float32(high - low)).clip(0, 1)
    return t * t * (3 - 2 * t)


def _curve(values: Array, *points: tuple[float, float]) -> Array:
    """Return `values` changed by a tone curve, which maps each input level to an output level.

    `points` are pairs (input, output). The curve is smooth: it passes exactly through the first and
    the last point, and close to the others.
    """
    steps, width = 4096, 512
    x = np.linspace(0, 1, steps)
    table = np.interp(x, [point[0] for point in points], [point[1] for point in points])
    bell = np.hanning(width + 1)
    padded = np.pad(table, width // 2, "reflect", reflect_type="odd")
    table = np.convolve(padded, bell / bell.sum(), "valid").astype(np.float32)
    return table[(values * (steps - 1)).clip(0, steps - 1).astype(np.uint16)]


def _curves(picture: Array, *channels: tuple[tuple[float, float], ...]) -> Array:
    """Return `picture` with a tone curve applied to each channel: red, green and blue."""
    return np.dstack([_curve(picture[..., i], *points) for i, points in enumerate(channels)])


def _saturation(picture: Array, factor: float) -> Array:
    """Return the picture with its saturation multiplied by `factor`."""
    grey = _luma(picture)[..., None]
    return grey + (picture - grey) * np.float32(factor)


def _clarity(picture: Array, amount: float, radius: float) -> Array:
    """Return the picture, RGB or gray, with more local contrast at medium brightness.

    Local contrast is the difference between a pixel and its surroundings within `radius` pixels.
    With an `amount` of 1, this difference is doubled at medium brightness.
    """
    grey = picture if picture.ndim == 2 else _luma(picture)
    detail = (grey - _blurred(grey, radius)) * (4 * grey * (1 - grey)).clip(0, 1)
    detail *= np.float32(amount)
    return picture + (detail if picture.ndim == 2 else detail[..., None])


def _noise(picture: Array, size: float, seed: int) -> Array:
    """Return random noise with the height and width of `picture`, and with a variance of 1.

    Spots of the noise are about `size` pixels wide. The same `seed` always gives the same noise.
    """
    height, width = picture.shape[:2]
    size = max(1.0, size)
    shape = int(np.ceil(height / size)), int(np.ceil(width / size))
    grain = np.random.default_rng(seed).standard_normal(shape, np.float32)
    if shape == (height, width):
        return grain
    grain = cv2.resize(grain, (width, height), interpolation=cv2.INTER_CUBIC)
    return grain / grain.std()


def _film_grain(picture: Array, amount: float, size: float) -> Array:
    """Return the picture, RGB or gray, with film grain.

    The grain is the same in all channels, and strongest at medium brightness. `amount` is the
    strength of the grain. The smallest spots are about `size` pixels wide.
    """
    grey = picture if picture.ndim == 2 else _luma(picture)
    grain = 0.6 * _noise(picture, size, seed=2) + 0.4 * _noise(picture, 2 * size, seed=3)
    grain *= np.float32(amount) * (0.35 + 2.6 * grey * (1 - grey))
    return picture + (grain if picture.ndim == 2 else grain[..., None])


def _redrawn(picture: Array) -> Array:
    """Return the picture as an AI model redraws it: with less fine detail and less contrast."""
    return cv2.bilateralFilter(picture, 5, 0.06, 1.6) * np.float32(0.985) + np.float32(0.008)


# --- Apply a look to a scene ------------------------------------------------------------------


def _film(scene: _Scene) -> Array:
    """Imitate old colour film.

    Blacks are lifted, highlights are cream-coloured and surrounded by a glow, corners are darker,
    and grain is added.
    """
    picture = _saturation(scene.picture, 0.85)
    glow = _blurred(_smoothstep(0.72, 1.0, _luma(picture)), 14 * scene.unit)
    picture = picture + glow[..., None] * np.array([0.10, 0.04, 0.01], np.float32)
    picture = _curves(
        picture,
        ((0, 0.065), (0.25, 0.25), (0.5, 0.55), (0.75, 0.82), (1, 0.985)),
        ((0, 0.066), (0.25, 0.255), (0.5, 0.53), (0.75, 0.785), (1, 0.955)),
        ((0, 0.078), (0.25, 0.246), (0.5, 0.470), (0.75, 0.680), (1, 0.845)),
    )
    height, width = picture.shape[:2]
    y = np.linspace(-1, 1, height, dtype=np.float32)[:, None]
    x = np.linspace(-1, 1, width, dtype=np.float32)[None]
    vignette = 1 - 0.24 * _smoothstep(0.35, 1.9, x * x + y * y)
    return _film_grain(picture * vignette[..., None], 0.036, 1.3 * scene.unit)


def _black_and_white(scene: _Scene) -> Array:
    """Imitate black-and-white film behind a yellow filter, printed with deep blacks."""
    mix = np.array([[0.36, 0.50, 0.14]], np.float32)
    grey = cv2.transform(scene.picture, mix).reshape(scene.picture.shape[:2])
    grey = _clarity(grey, 0.35, 30 * scene.unit)
    grey = _curve(grey, (0, 0), (0.2, 0.145), (0.5, 0.51), (0.8, 0.865), (1, 1))
    grey = _film_grain(grey, 0.025, 1.1 * scene.unit)
    return np.dstack([grey] * 3)


def _sketch(scene: _Scene) -> Array:
    """Imitate a pencil drawing on paper.

    The contours come from dividing the picture by a blurred copy, the shading from hatching.
    """
    unit = scene.unit
    grey = cv2.bilateralFilter(_luma(scene.picture), 5, 0.1, 3)
    lines = np.ones_like(grey)
    for radius in (2, 6):
        blurred = _blurred(grey, max(1.0, radius * unit))
        lines *= ((grey + 0.06) / (blurred + 0.06)).clip(0, 1)
    lines = _smoothstep(0.35, 0.98, lines)
    tone = _curve(_blurred(grey, 1.5 * unit), (0, 0), (0.3, 0.26), (0.7, 0.72), (1, 1))
    shade = 0.45 + 0.55 * _smoothstep(-0.2, 0.8, tone)
    for angle, depth in ((45, 0.72), (62, 0.50), (-40, 0.26)):
        strokes = _strokes(grey, angle, unit)
        shade *= 1 - 0.38 * _smoothstep(-0.1, 0.6, depth - tone + 0.15 * strokes)
    tooth = 0.93 + 0.06 * _noise(grey, 1.4 * unit, seed=5)
    light = 1 - (1 - lines * shade) * tooth.clip(0, 1)
    light += np.float32(0.008) * _noise(grey, 2.5 * unit, seed=6)
    paper = np.array([0.975, 0.965, 0.940], np.float32)
    graphite = np.array([0.10, 0.10, 0.115], np.float32)
    return graphite + (paper - graphite) * light[..., None]


def _strokes(picture: Array, angle: float, unit: float) -> Array:
    """Return hatching, (height, width): noise that is smeared into lines at `angle`, in degrees.

    The variance of the hatching is 1. `unit` is the unit of the scene, in pixels.
    """
    height, width = picture.shape[:2]
    step = max(1.0, unit)
    noise = np.random.default_rng(100 + int(angle)).standard_normal(
        (round(height / step), round(width / step)), np.float32
    )
    noise = _blurred(noise, 0.7)
    length = max(5, round(26 * unit / step)) | 1
    line = np.zeros((length, length), np.float32)
    centre = length // 2
    reach = centre * np.array([np.cos(np.radians(angle)), -np.sin(np.radians(angle))])
    ends = [np.rint(centre + sign * reach).astype(int).tolist() for sign in (-1, 1)]
    cv2.line(line, ends[0], ends[1], 1.0, 1, cv2.LINE_AA)
    drawn = cv2.filter2D(noise, -1, line)
    return cv2.resize(drawn / drawn.std(), (width, height), interpolation=cv2.INTER_CUBIC)


def _warmer(scene: _Scene) -> Array:
    """Make the colours warmer, as in afternoon sun."""
    return _balanced(scene.picture, 1.10, 0.80)


def _colder(scene: _Scene) -> Array:
    """Make the colours colder, as in the shade under a blue sky."""
    return _balanced(scene.picture, 0.87, 1.14)


def _balanced(picture: Array, red: float, blue: float) -> Array:
    """Return the picture with red and blue multiplied by the factors `red` and `blue`.

    The brightness of each pixel is kept, and bright colours are compressed so that they don't clip.
    """
    gains = [((0, 0), (0.7, 0.7 * gain), (1, min(1.0, gain))) for gain in (red, 1.0, blue)]
    balanced = _curves(picture, *gains)
    light = (_luma(picture) + 0.02) / (_luma(balanced) + 0.02)
    return balanced * light[..., None]


def _blur_background(scene: _Scene) -> Array:
    """Blur the area as a lens with a wide aperture would blur the background.

    Without an area, blur everything except a subject near the centre.
    """
    picture = scene.picture
    far = 1 - _subject(picture) if scene.area is None else scene.area
    radius = 14 * scene.unit
    # A strong blur is computed on a smaller copy, which makes no visible difference.
    step = max(1.0, radius / 8)
    height, width = far.shape
    small = (round(width / step), round(height / step))
    light, weight = (
        cv2.resize(array, small, interpolation=cv2.INTER_AREA) for array in (picture, far)
    )
    # The blur is computed in linear light. There, highlights are much brighter than their
    # surroundings, so that the blur turns them into discs.
    light = light.clip(0, 1) ** np.float32(2.2)
    light = light * (1 + 1.5 * _smoothstep(0.7, 1, _luma(light)))[..., None]
    # Each pixel is weighted by how much it belongs to the background, so that the colours of the
    # sharp subject do not bleed into the background.
    weight = weight + np.float32(1e-4)
    lens = _disc(radius / step).astype(np.float32)
    gathered = cv2.filter2D(light * weight[..., None], -1, lens)
    total = cv2.filter2D(weight, -1, lens)
    blurred = (gathered / total[..., None]).clip(0, 1) ** np.float32(1 / 2.2)
    blurred = cv2.resize(blurred, (width, height), interpolation=cv2.INTER_CUBIC)
    return picture + far[..., None] * (blurred - picture)


def _subject(picture: Array) -> Array:
    """Return an estimate of where the subject of the picture is.

    The estimate, (height, width), is 1 on the subject and 0 on the background, with soft edges. The
    subject is assumed to be near the centre and to differ in colour from the picture's border. If
    the colours don't separate a subject from the background, an ellipse in the middle is returned.
    """
    height, width = picture.shape[:2]
    scale = 256 / max(height, width)
    small = cv2.resize(
        picture, (round(width * scale), round(height * scale)), interpolation=cv2.INTER_AREA
    )
    rows, columns = small.shape[:2]
    y = np.linspace(-1, 1, rows, dtype=np.float32)[:, None]
    x = np.linspace(-1, 1, columns, dtype=np.float32)[None]
    distance = np.sqrt(x * x + (y - 0.05) ** 2)
    guess = np.full((rows, columns), cv2.GC_PR_BGD, np.uint8)
    guess[distance < 0.7] = cv2.GC_PR_FGD
    # The subject is assumed to be upright, like a person.
    guess[(x / 0.22) ** 2 + (y / 0.6) ** 2 < 1] = cv2.GC_FGD
    guess[(np.abs(x) > 0.96) | (np.broadcast_to(y, guess.shape) < -0.94)] = cv2.GC_BGD
    cv2.setRNGSeed(0)
    background, foreground = np.zeros((1, 65)), np.zeros((1, 65))
    cv2.grabCut(_bytes(small), guess, None, background, foreground, 4, cv2.GC_INIT_WITH_MASK)
    found = np.isin(guess, (cv2.GC_FGD, cv2.GC_PR_FGD)).astype(np.float32)
    if 0.08 < found.mean() < 0.65:
        found = cv2.morphologyEx(found, cv2.MORPH_OPEN, _disc(3))
        found = cv2.morphologyEx(found, cv2.MORPH_CLOSE, _disc(3))
    else:
        found = 1 - _smoothstep(0.5, 0.9, distance)
    found = _guided(found, _luma(small), 9)
    found = cv2.resize(found, (width, height), interpolation=cv2.INTER_CUBIC)
    return _smoothstep(0.2, 0.8, found)


def _guided(values: Array, guide: Array, radius: int) -> Array:
    """Return `values` smoothed over `radius` pixels, except across edges in the picture `guide`.

    The method is called a guided filter.
    """
    box = (2 * radius + 1, 2 * radius + 1)
    mean, level = cv2.blur(guide, box), cv2.blur(values, box)
    slope = (cv2.blur(guide * values, box) - mean * level) / (
        cv2.blur(guide * guide, box) - mean * mean + np.float32(2e-3)
    )
    offset = cv2.blur(level - slope * mean, box)
    return (cv2.blur(slope, box) * guide + offset).clip(0, 1)


def _blend_styles(scene: _Scene) -> Array:
    """Give the picture the palette of the references. Without references, apply the plain look.

    The mean and the covariance of the colours in the colour space CIE Lab become those of the
    references. Of all linear maps that achieve this, the one used changes the colours least (the
    linear Monge-Kantorovich map).
    """
    if not scene.references:
        return _plain(scene)
    lab = cv2.cvtColor(scene.picture.clip(0, 1), cv2.COLOR_RGB2LAB)
    inside = lab.reshape(-1, 3)
    if scene.area is not None and (scene.area > 0.5).any():
        inside = lab[scene.area > 0.5]
    mean, spread = _statistics(inside[:: max(1, len(inside) // 100_000)])
    others = [
        _statistics(cv2.cvtColor(reference, cv2.COLOR_RGB2LAB).reshape(-1, 3))
        for reference in scene.references
    ]
    wanted = np.mean([each[0] for each in others], axis=0)
    palette = np.mean([each[1] for each in others], axis=0)
    root = _power(spread, 0.5)
    inverse = _power(spread, -0.5)
    change = inverse @ _power(root @ palette @ root, 0.5) @ inverse
    # The limits keep the noise of a flat picture from being amplified, and keep a picture with high
    # contrast from becoming flat.
    values, axes = np.linalg.eigh(change)
    change = (axes * values.clip(0.55, 1.9)) @ axes.T
    moved = cv2.transform(lab - mean.astype(np.float32), change.astype(np.float32))
    # The mean lightness keeps 40 % of its own value, so that references that show snow don't turn a
    # picture of the night white.
    target = wanted * [0.6, 0.9, 0.9] + mean * [0.4, 0.1, 0.1]
    return cv2.cvtColor(moved + target.astype(np.float32), cv2.COLOR_LAB2RGB).clip(0, 1)


def _statistics(colours: Array) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the mean, (3,), and the covariance, (3, 3), of `colours`, (n, 3)."""
    return colours.mean(0, np.float64), np.cov(colours.T) + np.eye(3)


def _power(matrix: NDArray[np.float64], exponent: float) -> NDArray[np.float64]:
    """Return `matrix`, which is symmetric with positive eigenvalues, to the power of `exponent`."""
    values, axes = np.linalg.eigh(matrix)
    return (axes * values.clip(1e-6, None) ** exponent) @ axes.T


def _plain(scene: _Scene) -> Array:
    """Apply the plain look, which is used if the prompt names no other look.

    The picture becomes crisper and more saturated, with bluish-green shadows and warm highlights.
    """
    picture = _clarity(scene.picture, 0.45, 25 * scene.unit)
    picture = _curves(
        picture,
        ((0, 0.00), (0.25, 0.205), (0.5, 0.525), (0.75, 0.81), (1, 1)),
        ((0, 0.015), (0.25, 0.225), (0.5, 0.515), (0.75, 0.785), (1, 0.985)),
        ((0, 0.045), (0.25, 0.250), (0.5, 0.495), (0.75, 0.735), (1, 0.94)),
    )
    return _saturation(picture, 1.12)


# --- Remove what is in the area ---------------------------------------------------------------


def _remove(scene: _Scene) -> Array:
    """Remove what is in the area, and fill the area from its surroundings.

    If the whole picture is to be edited, remove dust and scratches instead.
    """
    hole = None if scene.area is None else scene.area > 0.02
    if hole is None or hole.all():
        return _cleaned(scene)
    if not hole.any():
        return scene.picture
    return fill(scene.picture, hole)


def _cleaned(scene: _Scene) -> Array:
    """Remove small specks on an even background, such as dust, scratches, and defective pixels."""
    width = 2 * round(3.5 * scene.unit) + 3
    ground = cv2.medianBlur(_bytes(scene.picture), width).astype(np.float32) / np.float32(255)
    speck = np.abs(_luma(scene.picture) - _luma(ground))
    found = _smoothstep(0.05, 0.12, speck)
    crowd = cv2.blur(found, (6 * width, 6 * width))
    found *= 1 - _smoothstep(0.04, 0.10, crowd)
    return scene.picture + found[..., None] * (ground - scene.picture)


# --- Choose the looks by words in the prompt --------------------------------------------------


def _words(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern, re.IGNORECASE)


# Every look whose pattern matches the prompt is applied, in this order. Removing comes first, so
# that the other looks also change the filled area.
_LOOKS: tuple[tuple[re.Pattern[str], Callable[[_Scene], Array]], ...] = (
    (
        _words(r"\b(remov|eras)(e|es|ed|ing)\b|\bget rid of\b|去除|移除|去掉|消除|擦除|删除"),
        _remove,
    ),
    (
        _words(
            r"\bblur\w*\b.*\bbackground|\bbackground\b.*\bblur|\bbokeh\b|背景虚化|虚化背景|背景模糊|模糊背景"
        ),
        _blur_background,
    ),
    (
        _words(
            r"\bblend\w*\b.*\bstyles?\b|\b(mix|merge|fuse|combine)\b.*\bstyles?\b|\bpalette\b|融合"
        ),
        _blend_styles,
    ),
    (_words(r"\bwarm(er|th)?\b|暖"), _warmer),
    (_words(r"\b(cold|cool)(er)?\b|冷"), _colder),
    (_words(r"\bvintage\b|\bretro\b|\b(analog(ue)?|old) film\b|复古|胶片"), _film),
    # This pattern must not match the words "black and white mask", because a prompt that contains
    # them explains a mask and doesn't ask for this look.
    (
        _words(r"\bblack[ -](and|&)[ -]white\b(?! mask)|\bmonochrome\b|黑白(?!蒙版|遮罩)"),
        _black_and_white,
    ),
    (_words(r"\bsketch\w*\b|\bpencil drawing\b|素描"), _sketch),
)
