"""What models do to the pixels that they should have kept: drift, tone, blur, other sizes.

The amounts are those that users of such services report, and somewhat more. Everything is
reproducible: the same misbehaviour does the same to the same picture.
"""

from __future__ import annotations

import io
import re
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from plugin.worker.affine import Layout
from plugin.worker.picture import png


@dataclass(frozen=True)
class Misbehaviour:
    """What happens to an answer on its way out, in this order.

    The picture is moved, smudged, blurred, changed in tone, made noisy, and then compressed.
    """

    zoom: float = 1.0
    """Above 1 everything is larger than it should be, seen from the centre."""
    stretch: float = 1.0
    """How much more the zoom is across than down."""
    rotation: float = 0.0
    """Degrees, clockwise as seen."""
    shift: tuple[float, float] = (0.0, 0.0)
    """To the right and down, as shares of the picture's sides."""
    size: tuple[int, int] | None = None
    """The (width, height) of the answer, whatever was asked for."""
    layout: Layout = "squeeze"
    """How the picture gets into a size of another ratio."""
    gain: tuple[float, float, float] = (1.0, 1.0, 1.0)
    """Factors of the encoded red, green and blue."""
    gamma: float = 1.0
    """Exponent of the encoded values, before the gain."""
    blur: float = 0.0
    """Standard deviation in pixels of the answer."""
    noise: float = 0.0
    """Standard deviation, where white is 1."""
    smudges: int = 0
    """Small places anywhere that are painted anew."""
    quality: int | None = None
    """The answer is a JPEG of this quality; None: a PNG."""
    seed: int = 0
    """For noise and smudges."""

    def matrix(self, asked: tuple[int, int]) -> NDArray[np.float64]:
        """Where the pixels of the picture of size `asked` go: a 3×3 matrix for pixel centres."""
        width, height = asked
        to_width, to_height = self.size or asked
        across, down = to_width / width, to_height / height
        if self.layout != "squeeze":
            across = down = (max if self.layout == "crop" else min)(across, down)
        angle = np.radians(self.rotation)
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        wide = np.sqrt(self.stretch)
        scale = turn @ np.diag([self.zoom * wide, self.zoom / wide])
        scale = np.diag([across, down]) @ scale
        middle = np.array([(width - 1) / 2, (height - 1) / 2])
        moved = np.array(self.shift) * (width * across, height * down)
        matrix = np.eye(3)
        matrix[:2, :2] = scale
        matrix[:2, 2] = np.array([(to_width - 1) / 2, (to_height - 1) / 2]) + moved - scale @ middle
        return matrix

    def apply(self, picture: Image.Image) -> Image.Image:
        """Return what becomes of `picture` (RGB), before it is encoded."""
        size = self.size or picture.size
        matrix = self.matrix(picture.size)
        pixels = np.asarray(picture)
        shrink = float(np.sqrt(abs(np.linalg.det(matrix[:2, :2]))))
        if shrink < 0.9:
            # A sampler looks at a few neighbours only.
            pixels = cv2.GaussianBlur(pixels, (0, 0), 0.45 * np.sqrt(1 / shrink**2 - 1))
        moved = pixels
        if size != picture.size or not np.allclose(matrix, np.eye(3)):
            moved = cv2.warpAffine(
                pixels, matrix[:2], size, flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT_101
            )
        answer = moved.astype(np.float32) / np.float32(255)
        random = np.random.default_rng(self.seed)
        self._smudge(answer, random)
        if self.blur:
            answer = cv2.GaussianBlur(answer, (0, 0), self.blur)
        if self.gamma != 1:
            answer = answer.clip(0, 1) ** np.float32(self.gamma)
        answer = answer * np.array(self.gain, np.float32)
        if self.noise:
            answer += random.standard_normal(answer.shape, np.float32) * np.float32(self.noise)
        return Image.fromarray(np.rint(answer.clip(0, 1) * 255).astype(np.uint8))

    def encoded(self, answer: Image.Image) -> tuple[bytes, str]:
        """The bytes and the media type of an answer that `apply` gave."""
        if self.quality is None:
            return png(answer), "image/png"
        out = io.BytesIO()
        answer.save(out, "JPEG", quality=self.quality)
        return out.getvalue(), "image/jpeg"

    def _smudge(self, answer: NDArray[Any], random: np.random.Generator) -> None:
        height, width = answer.shape[:2]
        radius = max(3, min(width, height) // 40)
        for _number in range(self.smudges):
            x = int(random.integers(radius, width - radius))
            y = int(random.integers(radius, height - radius))
            place = answer[y - radius : y + radius, x - radius : x + radius]
            place[:] = cv2.GaussianBlur(place[::-1, ::-1].copy(), (0, 0), radius / 4)


PRESETS: dict[str, Misbehaviour] = {
    "drifting": Misbehaviour(
        zoom=1.004, shift=(0.002, -0.004), gain=(1.03, 1.0, 0.96), gamma=0.97, blur=0.5, smudges=3
    ),
    "zooming": Misbehaviour(
        zoom=1.06, shift=(0.01, 0.015), rotation=0.4, gain=(0.97, 1.01, 1.04), blur=0.6, smudges=2
    ),
    "other size": Misbehaviour(size=(1254, 1254), layout="crop", gamma=1.04, blur=0.5, smudges=2),
    "smeared": Misbehaviour(
        zoom=0.98,
        stretch=1.015,
        rotation=-0.6,
        gain=(1.05, 1.02, 0.95),
        blur=1.0,
        noise=0.008,
        smudges=6,
        quality=75,
    ),
}
"""Like the real ones: a little off, zoomed, another size than asked for, and all of it at once."""

_ASKED = re.compile(r"^\s*misbehave:\s*(.+?)\s*$", re.IGNORECASE | re.MULTILINE)


def asked_for(prompt: str) -> Misbehaviour | None:
    """The preset that a line of the prompt asks for, such as `misbehave: drifting`."""
    asked = _ASKED.search(prompt)
    return PRESETS.get(asked[1].lower()) if asked else None
