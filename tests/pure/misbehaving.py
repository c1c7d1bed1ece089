"""The campaign that repair is judged by: photographs, selections, and services that misbehave.

Each case takes a region of a photograph, puts new content into a part of its selection (what a
perfect service would answer), has the sandbox misbehave with that, and looks at what is placed.
Errors are in levels of 255, distances in pixels of the region, colour differences in ΔE2000.
"""

from __future__ import annotations

import functools
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image
from skimage.color import deltaE_ciede2000, rgb2lab

from plugin.region import Box, plan
from plugin.worker import placement, repair, upload
from plugin.worker.registration import layouts, scaling
from plugin.worker.sandbox.misbehaviour import Misbehaviour

Array = np.ndarray[Any, Any]

SELECTIONS = ("small ellipse", "large rectangle", "half", "freehand", "feathered", "background")
MISBEHAVIOURS = 60


@functools.lru_cache(maxsize=4)
def selection(name: str, width: int, height: int) -> Array:
    """A selection of that kind over a picture, (height, width), 0 to 255."""
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
    """Any of those that repair has to bear, for an answer of the size `asked` for."""
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


@dataclass(frozen=True)
class Case:
    """One edit; photographs by name, everything else by number and thus reproducible."""

    photograph: str
    selection: str
    number: int

    @property
    def random(self) -> np.random.Generator:
        name = f"{self.photograph} {self.selection} {self.number}"
        return np.random.default_rng(list(name.encode()))


@dataclass(frozen=True)
class Answered:
    """A case as far as the service has come."""

    source: Image.Image
    ideal: Image.Image
    """What a perfect service would have answered, at the source's pixels."""
    mask: Image.Image
    changed: Array
    """Where there is new content, (height, width), 0 to 1."""
    built: upload.Upload
    answer: Image.Image
    to_sent: Array
    true: Array
    """From the source's pixels to those of the answer, as the simulation has it."""
    misbehaviour: Misbehaviour


def answered(case: Case, photograph: Image.Image, other: Image.Image) -> Answered:
    """Let the service answer; new content comes from the photograph `other`."""
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
    # The very way of an edit, of which only the pictures are needed.
    built = upload.build(region, source, mask, [])
    perfect = upload.build(region, ideal_picture, None, []).source
    bad = misbehaviour(random, region.answer)
    asked = perfect.resize(region.answer, Image.Resampling.BICUBIC)
    answer = bad.apply(asked)
    if bad.quality is not None:
        answer = Image.open(io.BytesIO(bad.encoded(answer)[0])).convert("RGB")
    left, top, right, bottom = built.inner
    to_sent = scaling(((right - left) / source.width, (bottom - top) / source.height), (left, top))
    sent_to_asked = scaling((asked.width / perfect.width, asked.height / perfect.height))
    true = bad.matrix(asked.size) @ sent_to_asked @ to_sent
    return Answered(source, ideal_picture, mask, changed, built, answer, to_sent, true, bad)


def _blobs(inside: Array, share: float, random: np.random.Generator) -> Array:
    """Round places that together fill that share of what is `inside`, 0 to 1."""
    height, width = inside.shape
    coarse = random.standard_normal((5, 7)).astype(np.float32)
    field = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    level = np.quantile(field[inside], 1 - share)
    blobs = ((field > level) & inside).astype(np.float32)
    return cv2.GaussianBlur(blobs, (0, 0), 1.0)


def inverse(made: Answered) -> Array:
    """The best that can be had of the answer: all that was done to it known, and undone.

    Blur, noise and compression can't be. Levels, (height, width, 3).
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
    """What a placed picture is held against; the same for all that are made of one answer."""

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
        """The figures of a placed picture, levels (height, width, 3)."""
        placed = np.asarray(placed, np.float32)
        error = cv2.transform(cv2.absdiff(placed, self._ideal), np.full((1, 3), 1 / 3))
        return {
            "kept": _mean(error, self._kept),
            "all": _mean(error, self._inside),
            # Across the selection's edge.
            "step": self._rim.difference(placed[self._whole_places]),
            "new": np.nan if self._new.sum() < 500 else self._middle.difference(placed),
        }


class Places:
    """Places of 8×8 pixels or hardly more, of which a share of `least` counts, at the least."""

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
        """L*a*b* of those places, (number, 3)."""
        means = self._means(cv2.copyTo(picture, self._counts))[self._told]
        return rgb2lab(means / self._share[self._told][:, None] / 255)

    def difference(self, placed: Array) -> float:
        """ΔE2000 of means over places, their median."""
        if self._told.sum() < 5:
            return np.nan
        return float(np.median(deltaE_ciede2000(self._colours(placed), self._wanted)))


def misregistration(made: Answered, found: repair.Repair | None) -> dict[str, float]:
    """How far off the registration is where the selection has texture, and how much it found."""
    way = layouts(made.built.source_size, made.answer.size)[0][1]
    matrix = way if found is None else found.registration.matrix
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
    """Where the answer shows anything of the source, 0 or 1."""
    full = np.ones((made.answer.height, made.answer.width), np.uint8)
    flags = cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP
    shown = cv2.warpAffine(full, made.true[:2], made.source.size, flags=flags)
    return cv2.erode(shown, np.ones((9, 9), np.uint8), borderValue=1)


def _mean(values: Array, where: Array) -> float:
    return cv2.mean(values, where)[0] if where.sum() > 100 else np.nan


def photographs(folder: Path) -> dict[str, Image.Image]:
    """The photographs among scikit-image's pictures, in `folder`, by what they show."""

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
    """What is in the middle, cut out, with a soft shadow, as shops show their goods."""
    large = photograph.resize((1200, 800), Image.Resampling.LANCZOS)
    cut = np.zeros((800, 1200), np.float32)
    cv2.ellipse(cut, (620, 400), (330, 300), 0, 0, 360, (1.0,), -1)
    cut = cv2.GaussianBlur(cut, (0, 0), 3)[..., None]
    shadow = cv2.GaussianBlur(cut, (0, 0), 25)[..., None] * 25
    pixels = np.asarray(large) * cut + (253 - shadow * (1 - cut)) * (1 - cut)
    return Image.fromarray(np.rint(pixels).astype(np.uint8))


def edited(case: Case, pictures: Mapping[str, Image.Image]) -> Answered:
    """The case on one of `pictures`, with new content from another."""
    names = list(pictures)
    other = names[(names.index(case.photograph) + 1 + case.number) % len(names)]
    if other == case.photograph:
        other = names[(names.index(other) + 1) % len(names)]
    return answered(case, pictures[case.photograph], pictures[other])


def compared(case: Case, pictures: Mapping[str, Image.Image]) -> dict[str, float]:
    """The figures of a case by every way: `repair`, `aligned` alone, `none`, and the `inverse`."""
    made = edited(case, pictures)
    found = placement.judged(made.answer, made.built)

    def placed(by: repair.Repair | None) -> Array:
        return placement.placed(made.answer, made.built, made.source, made.mask, by)[0]

    ways = {"repair": placed(found), "none": placed(None), "inverse": inverse(made)}
    if found is None:
        ways["aligned"] = ways["none"]
    else:
        matrix = found.registration.matrix @ made.to_sent
        ways["aligned"] = repair.resample(np.asarray(made.answer), matrix, made.source.size)
    figures = misregistration(made, found)
    judge = Judge(made)
    for way, picture in ways.items():
        figures.update({f"{way} {name}": value for name, value in judge.figures(picture).items()})
    return figures


def worse(figures: Mapping[str, float]) -> bool:
    """Whether repair made a result worse than it was."""
    return figures["repair all"] > 1.02 * figures["none all"] + 0.1
