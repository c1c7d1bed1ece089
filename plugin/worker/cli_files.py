"""Read and write picture files for edits from the command line, without GIMP.

Each edited picture is written as a PNG in the colour mode and colour profile of the original. In
it, pixels outside the mask have exactly the values of the original.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from PIL import Image, ImageChops, UnidentifiedImageError

from plugin.errors import Failure, Kind
from plugin.region import Box
from plugin.translation import _
from plugin.worker.pictures.colours import between_profiles, eight_bits, upright, upright_srgb

_FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF")
_KEPT_MODES = ("L", "LA", "RGB", "RGBA")
_MOST_PIXELS = 400_000_000
"""A picture file with more pixels is refused, because several copies of the picture are held in
memory, with up to four bytes per pixel."""


def copy(path: Path, target: Path) -> None:
    """Copy a picture file, and flush the copy to the disk.

    Raises Failure with a sentence for the user if `path` can't be read, is no picture or is too
    large, and OSError if the copy can't be written.
    """
    with contextlib.ExitStack() as opened:
        with _telling(path):
            file = opened.enter_context(open(path, "rb"))
            # Check the header first, so that a file that is too large is not copied.
            with Image.open(file, formats=_FORMATS) as picture:
                _check_size(picture, path)
            file.seek(0)
        with open(target, "wb") as copied:
            shutil.copyfileobj(file, copied, 1 << 20)
            copied.flush()
            os.fsync(copied.fileno())


def read_image(path: Path, copied: Path | None = None) -> Image.Image:
    """Return the picture file `path`, upright, as L, LA, RGB or RGBA with 8 bits per channel.

    If `copied` is given, read this copy of the file instead, but name `path` in messages. Raises
    Failure with a sentence for the user if the file can't be read, or if none of these modes can
    keep the exact values of its pixels.
    """
    picture, raw_mode = _open(path, copied)
    deep = picture.mode.startswith(("I", "F")) or ";16" in raw_mode
    if deep or picture.mode in ("CMYK", "LAB", "YCbCr", "HSV"):
        kind = (
            _("more than 8 bits per channel")
            if deep
            else _("{mode} colours").format(mode=picture.mode)
        )
        raise Failure(
            Kind.SETUP,
            _(
                "{name} has {kind}, which the command line can't preserve exactly. Edit it in "
                "GIMP, or convert it to 8-bit RGB first."
            ).format(name=path.name, kind=kind),
        )
    picture = upright(picture)
    if picture.mode not in _KEPT_MODES:
        see_through = "transparency" in picture.info or picture.mode in ("PA", "La", "RGBa")
        picture = picture.convert("RGBA" if see_through else "RGB")
    elif "transparency" in picture.info:
        picture = picture.convert("RGBA")
    return picture


def read_mask(path: Path, size: tuple[int, int]) -> Image.Image:
    """Return the mask in a file as a picture of mode L that is 255 where to edit and 0 elsewhere.

    If any pixel in the file is transparent, the transparent pixels are those to edit; otherwise the
    white pixels are. Values between are partly edited. Raises Failure if the file can't be read, if
    its (width, height) is not `size`, or if no pixel is to be edited.
    """
    picture = eight_bits(upright(_open(path)[0]))
    if picture.size != size:
        raise Failure(
            Kind.SETUP,
            _(
                "The mask {name} has {mask} pixels, but the picture has {picture}. Use a mask "
                "of the same size as the picture."
            ).format(
                name=path.name,
                mask=f"{picture.width}×{picture.height}",
                picture=f"{size[0]}×{size[1]}",
            ),
        )
    if picture.mode == "P" or "transparency" in picture.info:
        picture = picture.convert("RGBA")
    if "A" in picture.getbands() and picture.getchannel("A").getextrema() != (255, 255):
        mask = picture.getchannel("A").point(lambda value: 255 - value)
    else:
        mask = picture.convert("RGB").convert("L")
    if mask.getbbox() is None:
        raise Failure(
            Kind.SETUP,
            _("The mask {name} is empty. In the mask, fill the part to edit with white.").format(
                name=path.name
            ),
        )
    return mask


def read_reference(path: Path) -> Image.Image:
    """Return the reference picture in a file, upright, as RGB or RGBA in sRGB.

    Any bit depth and colour mode is accepted. Raises Failure if the file can't be read.
    """
    return upright_srgb(_open(path)[0])


def bounds(mask: Image.Image) -> Box:
    """Return the smallest box around all pixels of `mask` that are above 0. There must be one."""
    left, top, right, bottom = mask.getbbox() or (0, 0, *mask.size)
    return Box(left, top, right - left, bottom - top)


def content(image: Image.Image, box: Box) -> Image.Image:
    """Return the pixels of `image` inside `box` as they are sent: RGB or RGBA in sRGB."""
    part = image.crop((box.x, box.y, box.right, box.bottom))
    part.info = dict(image.info)
    return upright_srgb(part)


def merge(
    image: Image.Image,
    placed: Image.Image,
    box: Box,
    mask: Image.Image | None,
    keep_alpha: bool,
) -> Image.Image:
    """Return a copy of `image` with the fitted result `placed` composited over it inside `box`.

    `placed` is in sRGB. `placed` and `mask` (mode L, or None) have the size of `box`. Pixels where
    the mask or the alpha of `placed` is 0 stay unchanged. With `keep_alpha`, the copy keeps the
    alpha channel of `image`, and only its colours change.
    """
    merged = image.copy()
    result = _in_profile(placed, image)
    share = placed.getchannel("A") if placed.mode == "RGBA" else Image.new("L", placed.size, 255)
    if mask is not None:
        share = ImageChops.multiply(share, mask)
    if image.mode not in ("LA", "RGBA"):
        merged.paste(result, (box.x, box.y), share)
        return merged
    part = image.crop((box.x, box.y, box.right, box.bottom))
    if keep_alpha:
        result.putalpha(part.getchannel("A"))
    else:
        result.putalpha(share)
        laid = Image.alpha_composite(part.convert("RGBA"), result.convert("RGBA"))
        result = laid.convert(image.mode)
    merged.paste(result, (box.x, box.y))
    return merged


def check_writable(folder: Path, name: str, room: int) -> None:
    """Check that `save` can create a file in `folder`, and that `room` bytes are free.

    The check creates a file in `folder` and removes this file again. Raises Failure with a
    sentence for the user if a check fails.
    """
    try:
        _new_file(folder, name).unlink()
        free = shutil.disk_usage(folder).free
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            sentence = _(
                "The name {name} is too long for the result files. To shorten it, rename the "
                "picture. Nothing was sent, so nothing was charged."
            ).format(name=name)
        else:
            sentence = _(
                "Results can't be written to {folder} ({why}). Choose another folder with "
                "--out. Nothing was sent, so nothing was charged."
            ).format(folder=folder, why=why(error))
        raise Failure(Kind.SETUP, sentence) from error
    if free < room:
        raise Failure(
            Kind.SETUP,
            _(
                "The results may need {room} MB, but {folder} has only {free} MB left. Free "
                "some space there, or choose another folder with --out. Nothing was sent, so "
                "nothing was charged."
            ).format(room=-(-room // 1_000_000), folder=folder, free=free // 1_000_000),
        )


def save(image: Image.Image, folder: Path, name: str) -> Path:
    """Write `image` as a new PNG file in `folder`, and return the file's path. Raises OSError."""
    path = _new_file(folder, name)
    try:
        with open(path, "wb") as file:
            image.save(file, "PNG", compress_level=6, icc_profile=image.info.get("icc_profile"))
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        with contextlib.suppress(OSError):
            path.unlink()
        raise
    return path


def why(error: OSError) -> str:
    """Return the operating system's message for `error`, which occurred while using a folder."""
    # FileExistsError means that there is a file at the path where the folder should be.
    code = errno.ENOTDIR if isinstance(error, FileExistsError) else error.errno
    return os.strerror(code) if code else str(error)


def _new_file(folder: Path, name: str) -> Path:
    """Create an empty file `NAME-NUMBER.png` with the first free number, and return its path.

    The folder is created if necessary. Raises OSError.
    """
    folder.mkdir(parents=True, exist_ok=True)
    number = 1
    while True:
        path = folder / f"{name}-{number}.png"
        try:
            path.touch(exist_ok=False)
            return path
        except FileExistsError:
            number += 1


def _open(path: Path, copied: Path | None = None) -> tuple[Image.Image, str]:
    """Return the picture in a file, and the raw mode: Pillow's name for how the file stores pixels.

    Only the raw mode tells the bit depth of the file. If `copied` is given, this copy is read.
    Raises Failure if the file can't be read or has too many pixels.
    """
    with _telling(path), Image.open(copied or path, formats=_FORMATS) as picture:
        _check_size(picture, path)
        tiles = getattr(picture, "tile", [])
        arguments = tiles[0][3] if tiles else ""
        raw_mode = arguments if isinstance(arguments, str) else str(arguments[0])
        picture.load()
        return picture, raw_mode


def _check_size(picture: Image.Image, path: Path) -> None:
    if picture.width * picture.height > _MOST_PIXELS:
        raise Failure(
            Kind.SETUP,
            _(
                "{path} has {width}×{height} pixels, but the command line accepts at most "
                "{most} million. Scale it down, or edit a part of it in GIMP."
            ).format(
                path=path,
                width=picture.width,
                height=picture.height,
                most=_MOST_PIXELS // 1_000_000,
            ),
        )


@contextlib.contextmanager
def _telling(path: Path) -> Iterator[None]:
    """Turn an exception raised while the picture `path` is read into a Failure for the user."""
    try:
        yield
    except UnidentifiedImageError as error:
        raise Failure(
            Kind.SETUP,
            _(
                "{path} is not a picture, or its format is not supported. Use a PNG, JPEG, "
                "WebP, TIFF, BMP or GIF file."
            ).format(path=path),
        ) from error
    except (OSError, ValueError, SyntaxError) as error:
        raise Failure(
            Kind.SETUP, _("{path} can't be read: {why}.").format(path=path, why=error)
        ) from error


def _in_profile(placed: Image.Image, image: Image.Image) -> Image.Image:
    """Convert `placed` from sRGB to the colour profile of `image`, without its alpha.

    Return a picture of mode L if `image` is gray, otherwise of mode RGB.
    """
    profile = image.info.get("icc_profile")
    base = "L" if image.mode in ("L", "LA") else "RGB"
    colours = placed.convert("RGB")
    if profile:
        colours = between_profiles(colours, None, profile, base)
    return colours.convert(base)
