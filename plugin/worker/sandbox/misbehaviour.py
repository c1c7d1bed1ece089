"""Imitate what AI models do to pixels that they should have kept.

Models move the picture, change its colours, blur it, or return it in another size. Here, the
amounts are those that users of such services report, and somewhat more. Everything is reproducible:
the same misbehaviour always changes the same picture in the same way.
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

from plugin.worker.fitting.affine import Layout
from plugin.worker.pictures import png_files


@dataclass(frozen=True)
class Misbehaviour:
    """The changes that the sandbox makes to a picture before sending it as an answer.

    The changes are made in this order: move, smudge, blur, change the tone, add noise, compress.
    """

    zoom: float = 1.0
    """The factor by which the picture is enlarged around its centre."""
    stretch: float = 1.0
    """The horizontal zoom divided by the vertical zoom; `zoom` is their geometric mean."""
    rotation: float = 0.0
    """The clockwise rotation in degrees."""
    shift: tuple[float, float] = (0.0, 0.0)
    """The shift to the right and downwards, as shares of the picture's width and height."""
    size: tuple[int, int] | None = None
    """The (width, height) of the answer in pixels; None means that the size doesn't change."""
    layout: Layout = "squeeze"
    """How the picture is fitted into a `size` of another ratio."""
    gain: tuple[float, float, float] = (1.0, 1.0, 1.0)
    """The factors by which the encoded (sRGB) values of red, green and blue are multiplied."""
    gamma: float = 1.0
    """The exponent to which the encoded values are raised before the gain is applied."""
    blur: float = 0.0
    """The standard deviation of a Gaussian blur, in pixels of the answer."""
    noise: float = 0.0
    """The standard deviation of the noise that is added to encoded values from 0 to 1."""
    smudges: int = 0
    """The number of small squares, at random places, that are painted over."""
    quality: int | None = None
    """The quality of the JPEG file that is sent, or None to send a PNG file."""
    seed: int = 0
    """The seed of the random numbers for noise and smudges."""

    def matrix(self, asked: tuple[int, int]) -> NDArray[np.float64]:
        """Return the 3×3 matrix that maps pixels of the unchanged picture to pixels of the answer.

        `asked` is the (width, height) of the unchanged picture. The centres of pixels have whole
        numbers as coordinates.
        """
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
        """Return `picture` (RGB) with all changes except the compression."""
        size = self.size or picture.size
        matrix = self.matrix(picture.size)
        pixels = np.asarray(picture)
        shrink = float(np.sqrt(abs(np.linalg.det(matrix[:2, :2]))))
        if shrink < 0.9:
            # warpAffine interpolates between a few neighbours only, so fine detail is blurred
            # before the picture is scaled down.
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
        """Return the bytes and the media type of a file with the picture `answer` from `apply`."""
        if self.quality is None:
            return png_files.encoded(answer), "image/png"
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
"""Misbehaviours like those of real models, by name.

In this order: small deviations, a clear zoom, another size than the request asks for, and nearly
everything at once.
"""

_ASKED = re.compile(r"^\s*misbehave:\s*(.+?)\s*$", re.IGNORECASE | re.MULTILINE)


def asked_for(prompt: str) -> Misbehaviour | None:
    """Return the preset that a line of the prompt names, such as `misbehave: drifting`.

    Return None if no line names a preset.
    """
    asked = _ASKED.search(prompt)
    return PRESETS.get(asked[1].lower()) if asked else None
