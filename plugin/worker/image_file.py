"""Read and write picture files for edits from the command line, without GIMP.

The result is a PNG in the colour mode and colour profile of the original. Pixels outside the mask
keep exactly their values.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from PIL import Image, ImageChops, UnidentifiedImageError

from plugin.region import Box
from plugin.words import _
from plugin.worker.failure import Failure
from plugin.worker.picture import between_profiles, eight_bits, upright, upright_srgb

_FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF")
_KEPT_MODES = ("L", "LA", "RGB", "RGBA")
_MOST_PIXELS = 400_000_000
"""The most pixels of a picture. Several copies of it are held in memory, with up to four bytes per
pixel."""


def copy(path: Path, target: Path) -> None:
    """Copy a picture file, and flush the copy to the disk.

    Raises Failure with a sentence for the user if `path` can't be read, is no picture or is too
    large, and OSError if the copy can't be written.
    """
    with contextlib.ExitStack() as opened:
        with _telling(path):
            file = opened.enter_context(open(path, "rb"))
            # Check the file before a large copy is made.
            with Image.open(file, formats=_FORMATS) as picture:
                _check_size(picture, path)
            file.seek(0)
        with open(target, "wb") as copied:
            shutil.copyfileobj(file, copied, 1 << 20)
            copied.flush()
            os.fsync(copied.fileno())


def read_image(path: Path, copied: Path | None = None) -> Image.Image:
    """Return the picture upright, in a mode with 8 bits per channel that keeps all its values.

    The mode is L, LA, RGB or RGBA. If `copied` is given, this copy of the file is read, but
    messages still contain `path`. Raises Failure with a sentence for the user if the file can't be
    read, or if no such mode can keep its values.
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
            Failure.SETUP,
            _(
                "{name} holds {kind}, which the command line can't keep exactly: edit it in "
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
    """Return the mask in a file as L, 255 = edit.

    If any pixel is transparent, transparent means edit; otherwise white does. Raises Failure if the
    file can't be read, if its (width, height) is not `size`, or if nothing is to be edited.
    """
    picture = eight_bits(upright(_open(path)[0]))
    if picture.size != size:
        raise Failure(
            Failure.SETUP,
            _(
                "The mask {name} has {mask} pixels and the picture {picture}: they must be the "
                "same."
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
            Failure.SETUP,
            _("The mask {name} is empty: make white what is to change.").format(name=path.name),
        )
    return mask


def read_reference(path: Path) -> Image.Image:
    """Return a reference picture, upright, as RGB or RGBA in sRGB.

    The file may have any bit depth and colour mode. Raises Failure if it can't be read.
    """
    return upright_srgb(_open(path)[0])


def bounds(mask: Image.Image) -> Box:
    """Return the smallest box around the pixels of `mask` (not empty) that are above 0."""
    left, top, right, bottom = mask.getbbox() or (0, 0, *mask.size)
    return Box(left, top, right - left, bottom - top)


def content(image: Image.Image, box: Box) -> Image.Image:
    """Return the pixels of `box` as RGB or RGBA in sRGB, as they are sent."""
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
    """Return a copy of `image` with `placed` (sRGB) composited over it through `mask` (L).

    `placed` and `mask` have the size of `box`. Where the mask or the alpha of `placed` is 0, pixels
    are not changed. With `keep_alpha`, `image` keeps its own alpha channel and gets new colours
    only.
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

    This creates a file and removes it again. Raises Failure with a sentence for the user.
    """
    try:
        _new_file(folder, name).unlink()
        free = shutil.disk_usage(folder).free
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            sentence = _(
                "The name of {name} is too long for those of its results: rename the picture. "
                "Nothing was sent."
            ).format(name=name)
        else:
            sentence = _(
                "Results can't be written to {folder} ({why}): name another folder with --out. "
                "Nothing was sent."
            ).format(folder=folder, why=why(error))
        raise Failure(Failure.SETUP, sentence) from error
    if free < room:
        raise Failure(
            Failure.SETUP,
            _(
                "Results may need {room} MB, and {folder} has {free} MB left: free some space "
                "there, or name another folder with --out. Nothing was sent."
            ).format(room=-(-room // 1_000_000), folder=folder, free=free // 1_000_000),
        )


def save(image: Image.Image, folder: Path, name: str) -> Path:
    """Write a PNG to a new file in `folder`, and return its path. Raises OSError."""
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
    """Return the operating system's message for an error with a folder."""
    # This error means that there is a file at the path of the folder.
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
    """Return the picture, and the raw mode in which its file stores pixels.

    Only the raw mode shows the bit depth of the file. Raises Failure.
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
            Failure.SETUP,
            _(
                "{path} has {width}×{height} pixels, and the command line takes at most "
                "{most} million: scale it down, or edit a part of it in GIMP."
            ).format(
                path=path,
                width=picture.width,
                height=picture.height,
                most=_MOST_PIXELS // 1_000_000,
            ),
        )


@contextlib.contextmanager
def _telling(path: Path) -> Iterator[None]:
    """Turn an exception from reading the picture `path` into a Failure for the user."""
    try:
        yield
    except UnidentifiedImageError as error:
        raise Failure(
            Failure.SETUP, _("{path} is no picture that can be read here.").format(path=path)
        ) from error
    except (OSError, ValueError, SyntaxError) as error:
        raise Failure(
            Failure.SETUP, _("{path} can't be read: {why}.").format(path=path, why=error)
        ) from error


def _in_profile(placed: Image.Image, image: Image.Image) -> Image.Image:
    """Return sRGB pixels in the colour profile of `image`, as L if `image` is gray, else as RGB."""
    profile = image.info.get("icc_profile")
    base = "L" if image.mode in ("L", "LA") else "RGB"
    colours = placed.convert("RGB")
    if profile:
        colours = between_profiles(colours, None, profile, base)
    return colours.convert(base)
