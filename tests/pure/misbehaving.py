"""Simulated edits with a misbehaving service, which measure how well repair works.

Each case takes a region of a photograph and puts new content into a part of its selection: this is
what a perfect service would answer. The sandbox's misbehaviour then changes that picture, the
result is fitted, and the pixels that would be placed are compared with the perfect ones.

Errors are in levels of 255, distances in pixels of the region, colour differences in ΔE2000.
"""

from __future__ import annotations

import contextlib
import functools
import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from PIL import Image
from skimage.color import deltaE_ciede2000, rgb2lab

from plugin.region import Box, Region, plan
from plugin.worker.fitting import fit, repair
from plugin.worker.fitting.affine import Layout, layouts, scaling
from plugin.worker.fitting.registration import Unaligned
from plugin.worker.sandbox.misbehaviour import Misbehaviour
from plugin.worker.service import upload

Array = np.ndarray[Any, Any]

SELECTIONS = ("small ellipse", "large rectangle", "half", "freehand", "feathered", "background")
MISBEHAVIOURS = 60


@functools.lru_cache(maxsize=4)
def selection(name: str, width: int, height: int) -> Array:
    """Return the selection called `name` for a picture, (height, width), 0 to 255."""
    y, x = np.mgrid[:height, :width].astype(np.float32)
    x, y = x / width, y / height
    round_ = np.hypot((x - 0.5) / 0.5, (y - 0.5) / 0.5)
    angle = np.arctan2(y - 0.5, x - 0.5)
    if name == "small ellipse":
        chosen = np.hypot((x - 0.42) / 0.16, (y - 0.55) / 0.18) < 1
    elif name == "large rectangle":
        chosen = (abs(x - 0.5) < 0.36) & (abs(y - 0.5) < 0.34)
    elif name == "half":
        chosen = x > 0.55
    elif name == "freehand":
        chosen = round_ < 0.5 + 0.12 * np.sin(3 * angle) + 0.07 * np.cos(7 * angle + 1)
    elif name == "feathered":
        hard = (np.hypot((x - 0.55) / 0.25, (y - 0.45) / 0.25) < 1).astype(np.float32) * 255
        return np.rint(cv2.GaussianBlur(hard, (0, 0), 0.02 * min(width, height))).astype(np.uint8)
    else:
        chosen = round_ > 0.45 + 0.05 * np.sin(5 * angle)
    return (chosen * 255).astype(np.uint8)


def misbehaviour(random: np.random.Generator, asked: tuple[int, int]) -> Misbehaviour:
    """Return a random misbehaviour of the amount that repair must handle.

    `asked` is the size of the answer that was asked for, (width, height).
    """
    size, layout = None, "squeeze"
    chance = random.random()
    if chance < 0.25:
        factor = random.uniform(0.55, 0.95)
        size = (round(asked[0] * factor), round(asked[1] * factor))
    elif chance < 0.35:
        size = [(1312, 1199), (1254, 1254), (1024, 1536)][int(random.integers(3))]
        layout = str(random.choice(["squeeze", "crop", "extend"]))
    return Misbehaviour(
        zoom=random.uniform(0.92, 1.08),
        stretch=random.uniform(0.97, 1.03),
        rotation=random.uniform(-1.5, 1.5),
        shift=(random.uniform(-0.03, 0.03), random.uniform(-0.03, 0.03)),
        size=size,
        layout=layout,  # type: ignore[arg-type]
        gain=tuple(random.uniform(0.85, 1.15, 3)),
        gamma=random.uniform(0.9, 1.1),
        blur=random.uniform(0, 1),
        smudges=int(random.integers(0, 4)),
        quality=75 if random.random() < 0.5 else None,
        seed=int(random.integers(1 << 30)),
    )


Change = Callable[[Array, np.random.Generator], Array]
"""A change of an answer's levels, (height, width, 3), that the sandbox can't make."""


class Kind(NamedTuple):
    """A kind of misbehaviour with random amounts.

    `moved` returns the sandbox's misbehaviour for a size, and `change` makes any further change.
    """

    moved: Callable[[np.random.Generator, tuple[int, int]], Misbehaviour]
    change: Change = lambda levels, random: levels


def _as_sent(random: np.random.Generator, asked: tuple[int, int]) -> Misbehaviour:
    return Misbehaviour()


def _nearly(random: np.random.Generator, asked: tuple[int, int]) -> Misbehaviour:
    """Return a small motion, which accompanies the kinds that are not about motions."""
    shift = (random.uniform(-0.01, 0.01), random.uniform(-0.01, 0.01))
    return Misbehaviour(zoom=random.uniform(0.98, 1.02), shift=shift)


def _in_linear_light(levels: Array, matrix: Array) -> Array:
    linear = (levels.clip(0, 255) / 255) ** 2.2 @ matrix.T
    return linear.clip(0, 1) ** (1 / 2.2) * 255


def _mixing(random: np.random.Generator) -> Array:
    matrix = np.eye(3) + random.uniform(-0.08, 0.08, (3, 3))
    return matrix / matrix.sum(axis=1, keepdims=True) * random.uniform(0.95, 1.05, (3, 1))


def _balanced(levels: Array, random: np.random.Generator) -> Array:
    return _in_linear_light(levels, np.diag(random.uniform(0.85, 1.15, 3)))


def _s_curve(levels: Array, random: np.random.Generator) -> Array:
    share = levels.clip(0, 255) / 255
    return 255 * (share + random.uniform(0.3, 0.6) * share * (1 - share) * (2 * share - 1))


def _vignette(levels: Array, random: np.random.Generator) -> Array:
    height, width = levels.shape[:2]
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    return levels * (1 - random.uniform(0.05, 0.12) * (x * x + y * y))[..., None]


def _sharpened(levels: Array, random: np.random.Generator) -> Array:
    return levels + random.uniform(0.5, 1) * (levels - cv2.GaussianBlur(levels, (0, 0), 1.5))


def _denoised(levels: Array, random: np.random.Generator) -> Array:
    return cv2.bilateralFilter(levels.astype(np.float32), 7, 14, 3)


def _bent(pixels: float) -> Change:
    """Return a change that bends an answer by up to `pixels` pixels.

    This is for a longer side of 1024 pixels; bends grow in proportion to the longer side.
    """

    def change(levels: Array, random: np.random.Generator) -> Array:
        height, width = levels.shape[:2]
        coarse = random.standard_normal((6, 8, 2)).astype(np.float32)
        bend = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
        bend *= pixels * max(width, height) / 1024 / np.hypot(bend[..., 0], bend[..., 1]).max()
        x = np.arange(width, dtype=np.float32)[None] + bend[..., 0]
        y = np.arange(height, dtype=np.float32)[:, None] + bend[..., 1]
        border = cv2.BORDER_REFLECT_101
        return cv2.remap(levels.astype(np.float32), x, y, cv2.INTER_CUBIC, borderMode=border)

    return change


def _toned(random: np.random.Generator, asked: tuple[int, int]) -> Misbehaviour:
    gain = tuple(random.uniform(0.9, 1.1, 3))
    return Misbehaviour(gain=gain, gamma=random.uniform(0.93, 1.07))


PERFECT = {
    "as sent": Kind(_as_sent),
    "JPEG": Kind(lambda random, asked: Misbehaviour(quality=75)),
    "grain": Kind(lambda random, asked: Misbehaviour(noise=0.012)),
    "tone": Kind(_toned),
    "soft": Kind(lambda random, asked: Misbehaviour(blur=0.8)),
}
"""The kinds in which nothing moves. Repair must not move these answers."""


def _sized(layout: Layout, size: tuple[int, int] | None = None) -> Kind:
    """Return the kind with answers of another size, by default 0.6 of the size asked for."""

    def moved(random: np.random.Generator, asked: tuple[int, int]) -> Misbehaviour:
        answer = size or (round(asked[0] * 0.6), round(asked[1] * 0.6))
        return replace(_nearly(random, asked), size=answer, layout=layout)

    return Kind(moved)


KINDS = {
    **PERFECT,
    "shifted": Kind(
        lambda random, asked: Misbehaviour(shift=tuple(random.uniform(-0.03, 0.03, 2)))
    ),
    "zoomed": Kind(lambda random, asked: Misbehaviour(zoom=random.uniform(0.92, 1.08))),
    "turned": Kind(lambda random, asked: Misbehaviour(rotation=random.uniform(-1.5, 1.5))),
    "stretched": Kind(lambda random, asked: Misbehaviour(stretch=random.uniform(0.97, 1.03))),
    "moved": Kind(
        lambda random, asked: Misbehaviour(
            zoom=random.uniform(0.95, 1.05),
            rotation=random.uniform(-1, 1),
            shift=tuple(random.uniform(-0.02, 0.02, 2)),
        )
    ),
    "0.6×": _sized("squeeze"),
    "cut": _sized("crop", (1254, 1254)),
    "extended": _sized("extend", (1254, 1254)),
    "squeezed": _sized("squeeze", (1312, 1199)),
    "white balance": Kind(_nearly, _balanced),
    "S-curve": Kind(_nearly, _s_curve),
    "crossed": Kind(_nearly, lambda levels, random: levels @ _mixing(random).T),
    "crossed in linear light": Kind(
        _nearly, lambda levels, random: _in_linear_light(levels, _mixing(random))
    ),
    "vignette": Kind(_nearly, _vignette),
    "sharpened": Kind(_nearly, _sharpened),
    "denoised": Kind(_nearly, _denoised),
    "smudged": Kind(lambda random, asked: replace(_nearly(random, asked), smudges=6)),
    "bent by 2 px": Kind(_as_sent, _bent(2)),
    "bent by 4 px": Kind(_as_sent, _bent(4)),
    "bent by 6 px": Kind(_as_sent, _bent(6)),
    "everything": Kind(misbehaviour),
}


@dataclass(frozen=True)
class Case:
    """One edit. All its random choices depend on these names and `number`, so it is repeatable."""

    photograph: str
    selection: str
    number: int
    kind: str = "everything"

    @property
    def random(self) -> np.random.Generator:
        name = f"{self.photograph} {self.selection} {self.number}"
        return np.random.default_rng(list(name.encode()))


@dataclass(frozen=True)
class Answered:
    """A case with the service's answer."""

    source: Image.Image
    ideal: Image.Image
    """What a perfect service would have answered, at the size of `source`."""
    mask: Image.Image
    changed: Array
    """The share of new content in each pixel of `source`, (height, width), 0 to 1."""
    region: Region
    built: upload.Upload
    answer: Image.Image
    to_sent: Array
    true: Array
    """The true matrix from the pixels of `source` to those of `answer`."""
    misbehaviour: Misbehaviour


def answered(case: Case, photograph: Image.Image, other: Image.Image) -> Answered:
    """Simulate an edit of `photograph` and its answer, with new content from `other`."""
    random = case.random
    whole = Box(0, 0, *photograph.size)
    selected = Image.fromarray(selection(case.selection, *photograph.size))
    bounds = selected.getbbox()
    assert bounds is not None
    chosen = Box(bounds[0], bounds[1], bounds[2] - bounds[0], bounds[3] - bounds[1])
    region = plan(chosen, whole)
    box = (region.content.x, region.content.y, region.content.right, region.content.bottom)
    source, mask = photograph.crop(box), selected.crop(box)
    changed = _blobs(np.asarray(mask) > 127, random.uniform(0.2, 0.8), random)
    new = np.asarray(other.resize(source.size, Image.Resampling.LANCZOS), np.float32)
    ideal = np.asarray(source) * (1 - changed[..., None]) + new * changed[..., None]
    ideal_picture = Image.fromarray(np.rint(ideal).astype(np.uint8))
    # Build the upload as in a real edit, although only its pictures are used.
    built = upload.build(region, source, mask, [])
    perfect = upload.build(region, ideal_picture, None, []).source
    kind = KINDS[case.kind]
    bad = kind.moved(random, region.answer)
    asked = perfect.resize(region.answer, Image.Resampling.BICUBIC)
    levels = kind.change(np.asarray(bad.apply(asked), np.float32), random)
    answer = Image.fromarray(np.rint(levels.clip(0, 255)).astype(np.uint8))
    if bad.quality is not None:
        answer = Image.open(io.BytesIO(bad.encoded(answer)[0])).convert("RGB")
    left, top, right, bottom = built.inner
    to_sent = scaling(((right - left) / source.width, (bottom - top) / source.height), (left, top))
    sent_to_asked = scaling((asked.width / perfect.width, asked.height / perfect.height))
    true = bad.matrix(asked.size) @ sent_to_asked @ to_sent
    return Answered(source, ideal_picture, mask, changed, region, built, answer, to_sent, true, bad)


def _blobs(inside: Array, share: float, random: np.random.Generator) -> Array:
    """Return random blobs with soft edges that cover `share` of `inside`, from 0 to 1."""
    height, width = inside.shape
    coarse = random.standard_normal((5, 7)).astype(np.float32)
    field = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    level = np.quantile(field[inside], 1 - share)
    blobs = ((field > level) & inside).astype(np.float32)
    return cv2.GaussianBlur(blobs, (0, 0), 1.0)


def inverse(made: Answered) -> Array:
    """Return the best possible result: the answer with its true motion, gain and gamma reversed.

    Blur, noise and compression can't be reversed. The result is levels, (height, width, 3).
    """
    bad = made.misbehaviour
    levels = np.arange(256, dtype=np.float32)[:, None] / 255 / np.array(bad.gain, np.float32)
    levels = levels.clip(0, 1) ** np.float32(1 / bad.gamma)
    values = cv2.LUT(np.asarray(made.answer), levels[None])
    shrink = float(np.sqrt(abs(np.linalg.det(made.true[:2, :2]))))
    if shrink > 1.2:
        values = cv2.GaussianBlur(values, (0, 0), 0.45 * float(np.sqrt(shrink**2 - 1)))
    flags = cv2.INTER_LANCZOS4 | cv2.WARP_INVERSE_MAP
    border = cv2.BORDER_REPLICATE
    moved = cv2.warpAffine(values, made.true[:2], made.source.size, flags=flags, borderMode=border)
    return moved.clip(0, 1) * 255


class Judge:
    """Compares placed pictures with the perfect one.

    The same judge serves for all pictures that are made from one answer.
    """

    def __init__(self, made: Answered) -> None:
        self._ideal = np.asarray(made.ideal, np.float32)
        chosen = (np.asarray(made.mask) > 127).astype(np.uint8)
        square = np.ones((7, 7), np.uint8)
        self._inside = chosen & _shown(made)
        self._kept = self._inside & (cv2.dilate(made.changed, square) == 0)
        self._new = self._inside & (cv2.erode(made.changed, square) == 1)
        rim = (chosen - cv2.erode(chosen, square, borderValue=1)) & self._kept
        height, width = rim.shape
        self._whole_places = (slice(0, height // 8 * 8), slice(0, width // 8 * 8))
        source = np.asarray(made.source, np.float32)
        self._rim = Places(rim[self._whole_places], source[self._whole_places], least=1 / 8)
        self._middle = Places(self._new, self._ideal, least=0.7)

    def figures(self, placed: Array) -> dict[str, float]:
        """Return the figures of a placed picture, which is levels, (height, width, 3).

        "kept" and "all" are mean errors inside the selection: of what was kept, and of everything.
        "step" and "new" are colour differences: along the selection's edge, and of new content. A
        figure is NaN if there are too few pixels for it.
        """
        placed = np.asarray(placed, np.float32)
        error = cv2.transform(cv2.absdiff(placed, self._ideal), np.full((1, 3), 1 / 3))
        return {
            "kept": _mean(error, self._kept),
            "all": _mean(error, self._inside),
            # How the outermost pixels of the selection differ from the source.
            "step": self._rim.difference(placed[self._whole_places]),
            "new": np.nan if self._new.sum() < 500 else self._middle.difference(placed),
        }


class Places:
    """Compares the mean colours of cells of about 8×8 pixels with those of a picture `wanted`.

    Only pixels in `counts` (0 or 1) are used, and only cells in which their share is at least
    `least`.
    """

    def __init__(self, counts: Array, wanted: Array, least: float) -> None:
        self._counts = counts
        height, width = counts.shape
        self._size = (width // 8, height // 8)
        self._share = self._means(counts.astype(np.float32))
        self._told = self._share >= least
        self._wanted = self._colours(wanted)

    def _means(self, values: Array) -> Array:
        return cv2.resize(values, self._size, interpolation=cv2.INTER_AREA)

    def _colours(self, picture: Array) -> Array:
        """Return the mean L*a*b* of the cells, (number, 3)."""
        means = self._means(cv2.copyTo(picture, self._counts))[self._told]
        return rgb2lab(means / self._share[self._told][:, None] / 255)

    def difference(self, placed: Array) -> float:
        """Return the median colour difference of the cells, or NaN if there are fewer than 5."""
        if self._told.sum() < 5:
            return np.nan
        return float(np.median(deltaE_ciede2000(self._colours(placed), self._wanted)))


def judged(made: Answered) -> repair.Repair | None:
    """Return what repair measures in the answer, or None if it can't be aligned."""
    with contextlib.suppress(Unaligned):
        return fit.judged(made.answer, made.built)
    return None


def misregistration(made: Answered, found: Array | None) -> dict[str, float]:
    """Return "off", the error of a registration in pixels, and "found", whether there is one.

    `found` is its matrix, from pixels of the picture sent to those of the answer. Without it, the
    answer is assumed to be placed unaligned. "off" is the median over points of the selection with
    texture, or NaN if there are too few.
    """
    way = layouts(made.built.source_size, made.answer.size)[0][1]
    matrix = way if found is None else found
    gray = cv2.cvtColor(np.asarray(made.source), cv2.COLOR_RGB2GRAY).astype(np.float32)
    mean = cv2.blur(gray, (9, 9))
    texture = np.sqrt(np.maximum(cv2.blur(gray * gray, (9, 9)) - mean * mean, 0))
    where = (np.asarray(made.mask) > 127) & (_shown(made) > 0) & (texture > 6)
    rows, columns = np.nonzero(where)
    if len(rows) < 50:
        return {"off": np.nan, "found": found is not None}
    some = slice(None, None, max(1, len(rows) // 2000))
    points = np.stack([columns[some], rows[some], np.ones_like(rows[some])]).astype(np.float64)
    back = np.linalg.inv(made.true) @ matrix @ made.to_sent @ points
    off = np.hypot(*(back - points)[:2])
    return {"off": float(np.median(off)), "found": found is not None}


def _shown(made: Answered) -> Array:
    """Return which pixels of the source the answer covers, (height, width), 0 or 1."""
    full = np.ones((made.answer.height, made.answer.width), np.uint8)
    flags = cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP
    shown = cv2.warpAffine(full, made.true[:2], made.source.size, flags=flags)
    return cv2.erode(shown, np.ones((9, 9), np.uint8), borderValue=1)


def _mean(values: Array, where: Array) -> float:
    return cv2.mean(values, where)[0] if where.sum() > 100 else np.nan


def photographs(folder: Path) -> dict[str, Image.Image]:
    """Return photographs from `folder`, which has scikit-image's pictures, by what they show."""

    def one(name: str) -> Image.Image:
        return Image.open(folder / name).convert("RGB")

    portrait = one("astronaut.png").crop((60, 0, 480, 400))
    return {
        "portrait": portrait.resize((1050, 1000), Image.Resampling.LANCZOS),
        "building": one("rocket.jpg"),
        "text": one("page.png").resize((768, 382), Image.Resampling.LANCZOS),
        "product": _on_white(one("coffee.png")),
        "night": one("hubble_deep_field.jpg"),
    }


def _on_white(photograph: Image.Image) -> Image.Image:
    """Return the middle of a photograph, cut out on white with a soft shadow, as shops do it."""
    large = photograph.resize((1200, 800), Image.Resampling.LANCZOS)
    cut = np.zeros((800, 1200), np.float32)
    cv2.ellipse(cut, (620, 400), (330, 300), 0, 0, 360, (1.0,), -1)
    cut = cv2.GaussianBlur(cut, (0, 0), 3)[..., None]
    shadow = cv2.GaussianBlur(cut, (0, 0), 25)[..., None] * 25
    pixels = np.asarray(large) * cut + (253 - shadow * (1 - cut)) * (1 - cut)
    return Image.fromarray(np.rint(pixels).astype(np.uint8))


def edited(case: Case, pictures: Mapping[str, Image.Image]) -> Answered:
    """Simulate a case with one of `pictures`, and with new content from another one."""
    names = list(pictures)
    other = names[(names.index(case.photograph) + 1 + case.number) % len(names)]
    if other == case.photograph:
        other = names[(names.index(other) + 1) % len(names)]
    return answered(case, pictures[case.photograph], pictures[other])


def compared(case: Case, pictures: Mapping[str, Image.Image]) -> dict[str, float]:
    """Return the figures of a case: those of `misregistration`, and those of a Judge for each way.

    The ways are "repair", "aligned" (only the registration), "none" (no repair) and "inverse" (the
    best possible result). They precede the figures' names, such as "repair kept".
    """
    made = edited(case, pictures)
    found = judged(made)

    def placed(by: repair.Repair | None) -> Array:
        return fit.placed(made.answer, made.built, made.source, made.mask, by)[0]

    ways = {"repair": placed(found), "none": placed(None), "inverse": inverse(made)}
    if found is None:
        ways["aligned"] = ways["none"]
    else:
        matrix = found.registration.matrix @ made.to_sent
        ways["aligned"] = repair.resample(np.asarray(made.answer), matrix, made.source.size)
    figures = misregistration(made, None if found is None else found.registration.matrix)
    judge = Judge(made)
    for way, picture in ways.items():
        figures.update({f"{way} {name}": value for name, value in judge.figures(picture).items()})
    return figures


def edge(made: Answered, placed: Array) -> float:
    """Return the colour difference of unchanged pixels along the selection's edge.

    This is the 95th percentile, or NaN if there are too few pixels.
    """
    chosen = (np.asarray(made.mask) > 127).astype(np.uint8)
    rim = chosen > cv2.erode(chosen, np.ones((9, 9), np.uint8), borderValue=1)
    rim &= cv2.dilate(made.changed, np.ones((15, 15), np.uint8)) == 0
    if rim.sum() < 200:
        return np.nan
    # Blur the pictures, because noise of single pixels is not visible.
    one, other = (
        rgb2lab(cv2.GaussianBlur(np.asarray(each, np.float32), (0, 0), 1)[rim] / 255)
        for each in (placed, made.ideal)
    )
    return float(np.quantile(deltaE_ciede2000(one, other), 0.95))


Fit = Callable[[Answered], tuple[Array | None, Array]]
"""Returns the matrix of an answer, or None if it was not found, and the levels to be placed."""


def chain(photograph: Image.Image, fit: Fit, edits: int = 10) -> tuple[float, float]:
    """Edit a photograph `edits` times, each time the last result, and add a small disc each time.

    Returns the median colour difference between the last picture and the photograph where nothing
    was added, and the largest error of a registration.
    """
    picture, off = photograph, 0.0
    width, height = photograph.size
    whole = Box(0, 0, width, height)
    mask = Image.fromarray(selection("large rectangle", width, height))
    added = np.zeros((height, width), np.uint8)
    for number in range(edits):
        random = np.random.default_rng(number)
        ideal = np.asarray(picture).copy()
        at = (int(width * random.uniform(0.25, 0.75)), int(height * random.uniform(0.25, 0.75)))
        for image, colour in ((ideal, (200, 60, 40)), (added, (1,))):
            cv2.circle(image, at, max(4, width // 60), colour, -1)
        region = plan(whole, whole)
        built = upload.build(region, picture, mask, [])
        perfect = upload.build(region, Image.fromarray(ideal), None, []).source
        bad = replace(_nearly(random, region.answer), gain=tuple(random.uniform(0.94, 1.06, 3)))
        asked = perfect.resize(region.answer, Image.Resampling.BICUBIC)
        answer = bad.apply(asked)
        left, top, right, bottom = built.inner
        to_sent = scaling(((right - left) / width, (bottom - top) / height), (left, top))
        to_asked = scaling((asked.width / perfect.width, asked.height / perfect.height))
        true = bad.matrix(asked.size) @ to_asked @ to_sent
        made = Answered(
            *(picture, Image.fromarray(ideal), mask, added.astype(np.float32), region, built),
            *(answer, to_sent, true, bad),
        )
        matrix, placed = fit(made)
        off = max(off, misregistration(made, matrix)["off"])
        picture = Image.composite(Image.fromarray(placed), picture, mask)
    kept = (np.asarray(mask) > 0) & (cv2.dilate(added, np.ones((9, 9), np.uint8)) == 0)
    one, other = (rgb2lab(np.asarray(each)[kept] / 255) for each in (picture, photograph))
    return float(np.median(deltaE_ciede2000(one, other))), off


def worse(figures: Mapping[str, float]) -> bool:
    """Return whether repair made a result worse. `figures` come from `compared`."""
    return figures["repair all"] > 1.02 * figures["none all"] + 0.1
