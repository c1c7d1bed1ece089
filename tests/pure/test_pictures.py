"""The upload and the fitting of answers: size limits, mask, padding, scaling, alpha, formats."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms, ImageFilter

from plugin.errors import Failure
from plugin.region import Box, plan
from plugin.worker.fitting import blend, fit
from plugin.worker.pictures import formats
from plugin.worker.service import upload


def _noise(width: int, height: int) -> Image.Image:
    generator = np.random.default_rng(1)
    return Image.fromarray(generator.integers(0, 256, (height, width, 3), np.uint8))


def _decoded(built: upload.Upload, name: str) -> Image.Image:
    data = next(data for _, file, data in built.files if file == name)
    return Image.open(io.BytesIO(data))


def _differences(a: Image.Image, b: Image.Image) -> np.ndarray:
    return np.abs(np.asarray(a, int) - np.asarray(b, int))


def test_one_picture_goes_as_image_and_several_as_a_list(coffee: Image.Image) -> None:
    region = plan(Box(0, 0, *coffee.size), Box(0, 0, *coffee.size))
    alone = upload.build(region, coffee, None, [])
    assert [(f, n) for f, n, _ in alone.files] == [("image", "source.png")]
    mask = Image.new("L", coffee.size, 255)
    several = upload.build(region, coffee, mask, [coffee, coffee])
    assert [(f, n) for f, n, _ in several.files] == [
        ("image[]", "source.png"),
        ("image[]", "reference-1.png"),
        ("image[]", "reference-2.png"),
        ("mask", "mask.png"),
    ]


def test_the_mask_says_it_both_ways(coffee: Image.Image) -> None:
    region = plan(Box(0, 0, *coffee.size), Box(0, 0, *coffee.size))
    mask = Image.new("L", coffee.size, 0)
    mask.paste(255, (100, 100, 200, 200))
    mask.putpixel((0, 0), 64)
    sent = _decoded(upload.build(region, coffee, mask, []), "mask.png")
    assert sent.size == coffee.size
    assert sent.getpixel((150, 150)) == (255, 255, 255, 0)
    assert sent.getpixel((300, 300)) == (0, 0, 0, 255)
    assert sent.getpixel((0, 0)) == (64, 64, 64, 191)


def test_a_region_within_the_tier_goes_up_one_to_one(coffee: Image.Image) -> None:
    region = plan(Box(0, 0, *coffee.size), Box(0, 0, *coffee.size))
    assert (
        _differences(_decoded(upload.build(region, coffee, None, []), "source.png"), coffee).max()
        == 0
    )


def test_where_the_picture_ends_its_edge_is_repeated() -> None:
    strip = _noise(600, 40)
    region = plan(Box(0, 0, 600, 40), Box(0, 0, 600, 40))
    built = upload.build(region, strip, Image.new("L", strip.size, 255), [])
    sent = np.asarray(_decoded(built, "source.png"))
    left, top, right, bottom = built.inner
    assert (bottom - top, right - left) == (40, 600)
    assert np.array_equal(sent[top:bottom, left:right], np.asarray(strip))
    assert np.array_equal(sent[0], np.asarray(strip)[0])
    mask = np.asarray(_decoded(built, "mask.png"))
    assert mask.shape[:2] == sent.shape[:2]
    assert mask[0, 0, 3] == 255, "what is not there is not to be edited"


@pytest.mark.parametrize("size", [(600, 40), (600, 400), (4500, 3000), (3, 700), (1, 1)])
@pytest.mark.slow
def test_what_comes_back_unchanged_lands_where_it_was(size: tuple[int, int]) -> None:
    source = _noise(*size).resize(size).filter(ImageFilter.GaussianBlur(3))
    whole = Box(0, 0, *size)
    built = upload.build(plan(whole, whole), source, None, [])
    placed, _notes = fit.fit(_decoded(built, "source.png").convert("RGB"), built, source, None)
    assert placed.shape[1::-1] == size
    worst = 0 if built.source_size[0] <= 2880 and size[0] < 4000 else 12
    assert _differences(placed, source).mean() <= worst


def test_any_size_and_ratio_is_placed_and_told(coffee: Image.Image) -> None:
    whole = Box(0, 0, *coffee.size)
    built = upload.build(plan(whole, whole), coffee, None, [])
    same_ratio, notes = fit.fit(coffee.resize((1008, 672)), built, coffee, None)
    assert same_ratio.shape[1::-1] == coffee.size and notes == []
    assert _differences(same_ratio, coffee).mean() < 3
    _small, notes = fit.fit(coffee.resize((300, 200)), built, coffee, None)
    assert "200%" in notes[0]
    square, notes = fit.fit(coffee.resize((600, 600)), built, coffee, None)
    assert square.shape[1::-1] == coffee.size and "600×600 pixels and other proportions" in notes[0]
    # Nothing is squeezed: the square answer covers the region, is centred, and is cut off.
    cut = coffee.resize((600, 600)).crop((0, 100, 600, 500))
    assert _differences(square, cut).max() == 0


@pytest.mark.slow
def test_a_hairline_survives_being_scaled_down() -> None:
    source = _noise(6000, 4000)
    mask = Image.new("L", source.size, 0)
    mask.paste(255, (3000, 0, 3001, 4000))
    whole = Box(0, 0, *source.size)
    built = upload.build(plan(whole, whole, resolution="1k"), source, mask, [])
    sent = _decoded(built, "mask.png")
    assert sent.size == built.source_size == (1008, 672)
    assert np.asarray(sent)[..., 3].min() == 0


@pytest.mark.parametrize("resolution", ["1k", "4k"])
@pytest.mark.slow
def test_a_faint_selection_never_reads_as_keep_everything(resolution: str) -> None:
    source = _noise(6000, 4000)
    mask = Image.new("L", source.size, 0)
    mask.putpixel((3001, 2001), 1)
    whole = Box(0, 0, *source.size)
    built = upload.build(plan(whole, whole, resolution=resolution), source, mask, [])
    alpha = np.asarray(_decoded(built, "mask.png"))[..., 3]
    assert alpha.min() == 0 and (alpha == 0).sum() <= 4


def test_an_empty_mask_is_refused(coffee: Image.Image) -> None:
    whole = Box(0, 0, *coffee.size)
    with pytest.raises(Failure, match="empty"):
        upload.build(plan(whole, whole), coffee, Image.new("L", coffee.size, 0), [])


@pytest.mark.slow
def test_the_worst_pictures_stay_within_the_budget() -> None:
    size = (3840, 2160)
    noise = _noise(*size)
    whole = Box(0, 0, *size)
    mask = Image.fromarray(np.asarray(noise)[..., 0])
    built = upload.build(plan(whole, whole), noise, mask, [noise] * 3)
    lengths = [len(data) for _, _, data in built.files]
    assert len(lengths) == 5
    assert max(lengths) <= 20_000_000 and sum(lengths) <= 32_000_000
    assert _decoded(built, "mask.png").size == _decoded(built, "source.png").size
    assert "was sent at" in built.notes[0]


@pytest.mark.slow
def test_an_ordinary_large_photograph_is_not_shrunk(coffee: Image.Image) -> None:
    large = coffee.resize((3504, 2336), Image.Resampling.BICUBIC)
    whole = Box(0, 0, *large.size)
    built = upload.build(plan(whole, whole), large, None, [large] * 2)
    assert built.source_size == large.size and built.notes == []


def test_too_many_pictures_are_told(coffee: Image.Image) -> None:
    whole = Box(0, 0, *coffee.size)
    small = coffee.resize((60, 40))
    mask = Image.new("L", coffee.size, 255)
    upload.build(plan(whole, whole), coffee, mask, [small] * 7)
    with pytest.raises(Failure, match="at most 7 reference pictures"):
        upload.build(plan(whole, whole), coffee, mask, [small] * 8)


def test_a_cut_out_layer_comes_back_with_its_own_alpha(coffee: Image.Image) -> None:
    alpha = Image.radial_gradient("L").resize(coffee.size)
    cut_out = coffee.copy()
    cut_out.putalpha(alpha)
    whole = Box(0, 0, *coffee.size)
    built = upload.build(plan(whole, whole), cut_out, None, [])
    seen = _decoded(built, "source.png")
    assert seen.mode == "RGB"
    placed, _notes = fit.fit(seen, built, cut_out, None)
    kept = Image.fromarray(fit.keep_alpha(placed, cut_out))
    assert _differences(kept.getchannel("A"), alpha).max() == 0
    # Colours that did not change are exact even where they are almost transparent.
    own = np.asarray(alpha) > 0
    assert not (np.asarray(kept)[own] != np.asarray(cut_out)[own]).any()
    ground = Image.new("RGBA", coffee.size, "black")
    before, after = (Image.alpha_composite(ground, p) for p in (cut_out, kept))
    assert _differences(before, after).max() <= 1


def _with_a_hole(coffee: Image.Image, hole: tuple[int, int, int, int], hidden: str) -> Image.Image:
    """Return `coffee` with a transparent rectangle that has the colour `hidden`."""
    image = coffee.copy()
    image.paste(hidden, hole)
    alpha = Image.new("L", coffee.size, 255)
    alpha.paste(0, hole)
    image.putalpha(alpha)
    return image


def test_what_is_hidden_in_an_answer_makes_no_difference(coffee: Image.Image) -> None:
    mask = Image.new("L", coffee.size, 0)
    mask.paste(255, (240, 140, 360, 260))
    whole = Box(0, 0, *coffee.size)
    built = upload.build(plan(whole, whole), coffee, mask, [])
    laid = []
    for hidden in ("black", "lime"):
        answer = _with_a_hole(coffee, (250, 150, 350, 250), hidden)
        answer = answer.resize((1200, 800), Image.Resampling.NEAREST)
        placed, _notes = fit.fit(answer, built, coffee, mask, True)
        laid.append(Image.alpha_composite(coffee.convert("RGBA"), Image.fromarray(placed)))
    assert _differences(*laid).max() == 0
    assert _differences(laid[0].convert("RGB"), coffee)[140:260, 240:360].mean() < 1


def test_where_a_see_through_answer_does_not_reach_nothing_is_laid(coffee: Image.Image) -> None:
    whole = Box(0, 0, *coffee.size)
    mask = Image.new("L", coffee.size, 0)
    mask.paste(255, (0, 180, 600, 220))
    built = upload.build(plan(whole, whole), coffee, mask, [])
    # Like answers of another ratio, this one shows only the middle of the picture sent.
    answer = _with_a_hole(coffee, (290, 190, 310, 210), "black").crop((100, 0, 500, 400))
    answer = answer.resize((1024, 1024))
    placed, notes = fit.fit(answer, built, coffee, mask, True)
    assert "missing parts of the picture stay as they are" in notes[0]
    shown = placed[..., 3]
    assert shown[:, :90].max() == shown[:, 510:].max() == 0
    assert shown[100:180, 110:490].min() == 255 and shown[195:205, 295:305].max() == 0


def test_the_blend_rises_inwards_and_never_beyond_the_selection() -> None:
    mask = Image.new("L", (100, 100), 0)
    mask.paste(255, (20, 20, 80, 80))
    factor = np.asarray(blend.factor(mask, 10), int)
    row = factor[50, 20:50]
    assert row[0] < 40 and row[-1] == 255
    assert (np.diff(row) >= 0).all()
    feathered = Image.fromarray(np.tile(np.linspace(0, 255, 100).astype(np.uint8), (100, 1)))
    result = np.asarray(feathered, int) * np.asarray(blend.factor(feathered, 3), int) // 255
    assert (result <= np.asarray(feathered)).all()
    assert np.array_equal(result[:, 10:], np.asarray(feathered)[:, 10:]), "a softer feather stays"


def _encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_pictures_of_the_service_are_read_whatever_their_kind(
    coffee: Image.Image, kind: str
) -> None:
    read = formats.read_foreign(_encoded(coffee, kind, quality=95))
    assert (read.mode, read.size) == ("RGB", coffee.size)
    assert _differences(read, coffee).mean() < 3


def test_odd_pictures_come_out_as_plain_srgb(coffee: Image.Image) -> None:
    turned = Image.Exif()
    turned[0x0112] = 6
    upright = formats.read_foreign(_encoded(coffee, "JPEG", exif=turned))
    assert upright.size == (400, 600)
    assert formats.read_foreign(_encoded(coffee.convert("CMYK"), "JPEG")).mode == "RGB"
    assert formats.read_foreign(_encoded(coffee.convert("P"), "PNG")).mode == "RGB"
    deep = np.asarray(coffee.convert("L"), np.uint16) * 257
    gray = formats.read_foreign(_encoded(Image.fromarray(deep), "PNG"))
    assert _differences(gray.convert("L"), coffee.convert("L")).max() == 0
    moving = _encoded(coffee, "WEBP", save_all=True, append_images=[coffee.rotate(9)], duration=9)
    assert formats.read_foreign(moving).size == coffee.size
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB"))
    odd = formats.read_foreign(_encoded(coffee, "PNG", icc_profile=profile.tobytes()))
    assert odd.info == {}
    half = coffee.copy()
    half.putalpha(128)
    assert formats.read_foreign(_encoded(half, "PNG")).getpixel((5, 5))[3] == 128


def _bomb() -> bytes:
    """Return a PNG of a few bytes whose header says 100,000 by 100,000 pixels."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    header = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 99))


def test_what_is_no_picture_is_refused_with_a_reason(coffee: Image.Image) -> None:
    png = _encoded(coffee, "PNG")
    for data, why in (
        (b"<html>502 Bad Gateway</html>", "not a PNG"),
        (b"", "not a PNG"),
        (png[: len(png) // 2], "damaged"),
        (_bomb(), "too large for a result"),
        (b"GIF89a" + b"\0" * 100, "not a PNG"),
        (png + b"\0" * formats.FOREIGN_BYTES, "larger than 64 MB"),
    ):
        with pytest.raises(formats.Unreadable, match=why):
            formats.read_foreign(data)
