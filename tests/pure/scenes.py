"""Pictures to test repair with: photographs, crops of them, and drawings of little but lines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from tests.pure import misbehaving

_SIZE = 1000, 750
_CROPS = {
    "skin": ("astronaut.png", (170, 60, 300, 190)),
    "fabric": ("astronaut.png", (300, 330, 512, 512)),
    "flag": ("astronaut.png", (0, 0, 180, 220)),
    "coffee": ("coffee.png", None),
    "cup": ("coffee.png", (180, 60, 480, 300)),
    "table": ("coffee.png", (0, 250, 300, 400)),
    "spoon": ("coffee.png", (380, 120, 600, 300)),
    "motorcycle": ("motorcycle_left.png", None),
    "wheel": ("motorcycle_left.png", (0, 150, 250, 400)),
    "workshop": ("motorcycle_left.png", (370, 0, 741, 250)),
    "cat": ("chelsea.png", None),
    "fur": ("chelsea.png", (250, 150, 450, 300)),
    "eye": ("chelsea.png", (130, 70, 260, 170)),
    "tower": ("rocket.jpg", (280, 0, 420, 200)),
    "launch pad": ("rocket.jpg", (0, 250, 640, 427)),
    "dusk": ("rocket.jpg", (400, 20, 640, 180)),
    "grass": ("grass.png", None),
    "gravel": ("gravel.png", None),
    "brick": ("brick.png", None),
    "coins": ("coins.png", None),
    "moon": ("moon.png", None),
    "cameraman": ("camera.png", None),
    "gray sky": ("camera.png", (0, 0, 200, 150)),
    "lawn": ("camera.png", (250, 330, 512, 512)),
    "tissue": ("ihc.png", None),
    "retina": ("retina.jpg", None),
    "cell": ("cell.png", None),
    "colours": ("color.png", None),
    "chessboard": ("chessboard_RGB.png", None),
    "clock": ("clock_motion.png", None),
    "letters": ("text.png", None),
    "logo": ("logo.png", None),
}


def photographs(folder: Path) -> dict[str, Image.Image]:
    """Return photographs and crops from `folder`, which has scikit-image's pictures, by name."""
    pictures = misbehaving.photographs(folder)
    for name, (file, box) in _CROPS.items():
        picture = Image.open(folder / file).convert("RGB")
        part = picture.crop(box) if box else picture
        scale = 1000 / max(part.size)
        size = (round(part.width * scale), round(part.height * scale))
        pictures[name] = part.resize(size, Image.Resampling.LANCZOS)
    return pictures


def drawn() -> dict[str, Image.Image]:
    """Return drawings, by name, in which some motions can't be seen.

    Such a motion is, for example, along a line, around a circle, or by the width of a tile.
    """
    return {
        "one edge": _drawn((200, 205, 210), _one_edge),
        "parallel lines": _drawn((200, 205, 210), _parallel_lines),
        "horizon": _drawn((150, 180, 220), _horizon),
        "fence": _drawn((170, 190, 210), _fence),
        "a row of text": _drawn((240, 240, 235), _row_of_text),
        "circle": _drawn((225, 220, 215), _circle),
        "tiles": _drawn((200, 205, 210), _tiles),
        "wires": _drawn((120, 160, 215), _wires),
        "road": _drawn((180, 180, 178), _road),
        "façade": _drawn((200, 190, 170), _facade),
        "stairs": _drawn((90, 90, 92), _stairs),
        "arcs": _drawn((30, 30, 40), _arcs),
        "bottle, flat": _drawn((250, 250, 250), _bottle, grain=0),
        "line art": _drawn((250, 248, 240), _line_art, grain=0),
        "sky": _sky(),
        "snow": _snow(),
    }


def grainy(levels: Any, deviation: float, seed: int = 0) -> Image.Image:
    """Return a picture of `levels`, (height, width, 3), with gray noise added.

    `deviation` is the noise's standard deviation in levels.
    """
    noise = np.random.default_rng(seed).standard_normal(levels.shape[:2])
    noisy = np.asarray(levels, np.float32) + deviation * noise[..., None]
    return Image.fromarray(np.clip(np.rint(noisy), 0, 255).astype(np.uint8))


def _drawn(ground: tuple[int, int, int], draw: Any, grain: float = 2.0) -> Image.Image:
    # Draw at twice the size, so that edges are smooth in the scaled picture.
    large = Image.new("RGB", (2 * _SIZE[0], 2 * _SIZE[1]), ground)
    draw(ImageDraw.Draw(large))
    picture = large.resize(_SIZE, Image.Resampling.LANCZOS)
    return grainy(np.asarray(picture), grain, len(draw.__name__)) if grain else picture


def _one_edge(draw: ImageDraw.ImageDraw) -> None:
    draw.polygon([(0, 900), (2000, 600), (2000, 1500), (0, 1500)], fill=(90, 95, 100))


def _parallel_lines(draw: ImageDraw.ImageDraw) -> None:
    for x in range(-2400, 4800, 120):
        draw.line([(x, 0), (x + 700, 1500)], fill=(120, 110, 100), width=10)


def _horizon(draw: ImageDraw.ImageDraw) -> None:
    draw.rectangle([0, 760, 2000, 1500], fill=(60, 90, 60))


def _fence(draw: ImageDraw.ImageDraw) -> None:
    for x in range(0, 2000, 80):
        draw.rectangle([x, 300, x + 40, 1300], fill=(110, 80, 50))
    for y in (500, 1050):
        draw.rectangle([0, y, 2000, y + 40], fill=(90, 60, 40))


def _row_of_text(draw: ImageDraw.ImageDraw) -> None:
    font = ImageFont.load_default(120)
    draw.text((100, 650), "The quick brown fox jumps over", fill=(20, 20, 20), font=font)


def _circle(draw: ImageDraw.ImageDraw) -> None:
    draw.ellipse([600, 350, 1400, 1150], fill=(120, 60, 60))


def _tiles(draw: ImageDraw.ImageDraw) -> None:
    for y in range(0, 1500, 125):
        for x in range(0, 2000, 125):
            gray = 170 + (x * 7 + y * 13) % 40
            draw.rectangle([x + 4, y + 4, x + 121, y + 121], fill=(gray, gray, gray))


def _wires(draw: ImageDraw.ImageDraw) -> None:
    for number in range(4):
        ends = [(0, 300 + number * 60), (2000, 200 + number * 75)]
        draw.line(ends, fill=(40, 40, 45), width=5)


def _road(draw: ImageDraw.ImageDraw) -> None:
    draw.polygon([(800, 600), (1200, 600), (2000, 1500), (0, 1500)], fill=(80, 80, 84))
    for number in range(6):
        near, top = number * 3, 640 + number * 140
        mark = [(990 - near, top), (1010 + near, top), (1016 + 2 * near, top + 80)]
        draw.polygon([*mark, (984 - 2 * near, top + 80)], fill=(240, 240, 235))
    draw.rectangle([0, 0, 2000, 600], fill=(150, 175, 205))


def _facade(draw: ImageDraw.ImageDraw) -> None:
    for y in range(100, 1500, 230):
        for x in range(80, 2000, 260):
            draw.rectangle([x, y, x + 150, y + 160], fill=(60, 70, 85))
            draw.rectangle([x + 70, y, x + 80, y + 160], fill=(220, 215, 205))


def _stairs(draw: ImageDraw.ImageDraw) -> None:
    for y in range(-240, 1680, 120):
        draw.line([(0, y), (2000, y + 80)], fill=(150, 148, 140), width=14)


def _arcs(draw: ImageDraw.ImageDraw) -> None:
    for grown in range(0, 210, 30):
        box = [300 - grown, 100 - grown, 1700 + grown, 1500 + grown]
        draw.arc(box, 190, 350, fill=(200, 200, 190), width=6)


def _bottle(draw: ImageDraw.ImageDraw) -> None:
    draw.rounded_rectangle([750, 250, 1250, 1300], 60, fill=(40, 110, 60))
    draw.rectangle([850, 120, 1150, 260], fill=(30, 30, 30))


def _line_art(draw: ImageDraw.ImageDraw) -> None:
    random = np.random.default_rng(3)
    for _number in range(30):
        corners = [(int(x) + 200, int(y)) for x, y in random.integers(0, 1500, (3, 2))]
        draw.line(corners, fill=(20, 20, 20), width=6)


def _sky() -> Image.Image:
    down = np.linspace(0, 1, _SIZE[1])[:, None, None]
    levels = np.array([110, 150, 220]) + np.array([60, 60, 20]) * down
    return grainy(np.broadcast_to(levels, (_SIZE[1], _SIZE[0], 3)), 1.2)


def _snow() -> Image.Image:
    wide = np.random.default_rng(5).standard_normal((_SIZE[1], _SIZE[0])).astype(np.float32)
    drifts = 235 + 160 * cv2.GaussianBlur(wide, (0, 0), 25)
    return grainy(np.repeat(drifts[..., None], 3, axis=2), 1.5)
