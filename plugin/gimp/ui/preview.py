"""Show what will be sent before the user pays: a thumbnail of the pixels, their sizes, the price.

The preview checks the image at short intervals, because GIMP doesn't tell plug-ins about changes.
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable
from typing import Any

from gi.repository import GdkPixbuf, Gegl, Gimp, GLib, Gtk, Pango

from plugin import settings
from plugin.errors import UserError
from plugin.gimp import capture, planning, price
from plugin.gimp.canvas import pixels
from plugin.gimp.canvas.layers import offsets
from plugin.gimp.planning import Edited, Plan, Request
from plugin.gimp.translation import _, plural
from plugin.gimp.ui import thumbnails
from plugin.limits import TIERS
from plugin.region import Box

_SIDE = 168
"""The length of the thumbnail's longer side, in pixels."""
_EVERY = 0.3
"""There are at least this many seconds between two checks of the image."""
_PATIENCE = 10
"""The pause after a check is at least this many times as long as the check itself.

A slow check means that GIMP is busy, so the next check is made later.
"""
_SAMPLES, _SAMPLE_ROWS, _SAMPLE_COLUMNS = 6, 8, 512
"""The number, height and width of the boxes that are compressed to estimate the upload's size."""


class Preview(Gtk.Box):
    """A thumbnail of the pixels that will be sent, with sizes and the price beside it.

    `request` returns the choices that are now set in the window.
    """

    def __init__(self, image: Gimp.Image, request: Callable[[], Request]) -> None:
        super().__init__(spacing=12)
        Gegl.init(None)
        self._image = image
        self._request = request
        self._prices: dict[str, float] = {}
        self._seen: object = None
        self._picture = Gtk.Image()
        self._picture.set_size_request(_SIDE, _SIDE * 3 // 4)
        self._picture.get_accessible().set_name(_("What will be sent"))
        self._figures = Gtk.Label(xalign=0, yalign=0, selectable=False, wrap=True)
        self._figures.set_max_width_chars(26)
        self._figures.set_width_chars(20)
        self._figures.set_line_wrap_mode(Pango.WrapMode.WORD_CHAR)
        self.pack_start(self._picture, False, False, 0)
        self.pack_start(self._figures, True, True, 0)
        self._timer = 0
        self._refresh()
        self.connect("destroy", self._stop)

    def set_prices(self, prices: dict[str, float]) -> None:
        """Set the price of one picture for each tier. The next check shows the new price."""
        self._prices = prices
        self._seen = None

    def _stop(self, _widget: Gtk.Widget) -> None:
        GLib.source_remove(self._timer)

    def _refresh(self) -> bool:
        began = time.monotonic()
        try:
            seen = self._state()
            if seen != self._seen:
                self._seen = seen
                self._show()
        except (GLib.Error, TypeError, AttributeError):
            # The user has closed the image or deleted a layer during the check.
            self._seen = None
        finally:
            pause = max(_EVERY, _PATIENCE * (time.monotonic() - began))
            self._timer = GLib.timeout_add(round(pause * 1000), self._refresh)
        return False

    def _state(self) -> object:
        """Return a value that is different if the preview must be drawn again.

        The value is quick to compute, because it contains only sizes, names, the choices, and
        hashes of small thumbnails.
        """
        image = self._image
        if not image.is_valid():
            return None
        selection = image.get_selection()
        shape: Any = None
        if not Gimp.Selection.is_empty(image):
            size = (min(64, image.get_width()), min(64, image.get_height()))
            data, *_size = thumbnails.sub_thumbnail(selection, pixels.extent(selection), size)
            shape = hash(data), planning.selection_bounds(image)
        request, selected = self._request(), image.get_selected_layers()
        layers = [
            (layer.get_id(), layer.get_name(), offsets(layer), pixels.extent(layer))
            for layer in selected
        ]
        edited = image if request.visible else next(iter(selected), None)
        look = hash(edited.get_thumbnail_data(32, 32)[0].get_data()) if edited is not None else 0
        return request, image.get_width(), image.get_height(), shape, layers, look

    def _show(self) -> None:
        image, request = self._image, self._request()
        if not image.is_valid():
            self._picture.clear()
            self._figures.set_text(_("The image was closed."))
            return
        layers = image.get_selected_layers()
        if not layers:
            self._picture.clear()
            self._figures.set_text(_("Select a layer to edit."))
            return
        try:
            selected = planning.selection_of(image) if request.use_selection else None
            what = planning.edited(image, layers[0], request, selected)
            plan = planning.planned(what, request)
        except UserError as error:
            self._picture.clear()
            gone = _("The layer was deleted, or its image was closed.")
            self._figures.set_text(str(error) if layers[0].is_valid() else gone)
            return
        picture = self._thumbnail(layers[0], what, plan, request)
        self._picture.set_from_pixbuf(picture)
        count = 1 if request.visible else len(layers)
        lines = self._lines(layers[0], plan, request, count)
        if request.use_selection and selected is None:
            lines.insert(0, _("Nothing is selected, so everything will be edited."))
        if hidden := capture.hidden_by(layers[0], request):
            lines.append(hidden)
        self._figures.set_text("\n".join(lines))

    def _thumbnail(
        self, layer: Gimp.Layer, what: Edited, plan: Plan, request: Request
    ) -> GdkPixbuf.Pixbuf:
        box = plan.region.content
        if request.visible:
            picture = thumbnails.of_canvas(self._image, box, _SIDE)
        else:
            picture = thumbnails.of_box(layer, box, _SIDE)
        if what.selected is None:
            return picture
        return thumbnails.with_selection(
            picture, self._image.get_selection(), box.moved(*what.origin)
        )

    def _lines(self, layer: Gimp.Layer, plan: Plan, request: Request, count: int) -> list[str]:
        region = plan.region
        sent = region.upload
        lines = [
            _("{width}×{height} pixels of {what}").format(
                width=region.content.width,
                height=region.content.height,
                what=_("the image")
                if request.visible
                else _("“{name}”").format(name=layer.get_name()),
            ),
            _("Requested result: {ratio} at {tier}, {width}×{height} pixels").format(
                ratio=region.size.replace("x", "×"),
                tier=region.resolution,
                width=region.answer[0],
                height=region.answer[1],
            ),
        ]
        scale = region.box.width / region.answer[0]
        if sent[0] < region.box.width:
            lines.append(
                _(
                    "The picture is sent at {share:.0%} of its size, so the result will be enlarged"
                ).format(share=sent[0] / region.box.width)
            )
        elif scale < 0.98:
            lines.append(_("Result scaled down to {share:.0%}").format(share=scale))
        if count > 1:
            lines.append(
                plural("{count} layer", "{count} layers, one edit each", count).format(count=count)
            )
        lines.append(
            _("Upload: about {size:.1f} MB").format(
                size=_upload_bytes(layer, region.content, sent) * count / 1e6
            )
        )
        lines += price.lines(self._prices.get(region.resolution), count * request.variations)
        lines += _risk(region.resolution)
        return lines


def _risk(tier: str) -> list[str]:
    """Return a list with a warning if the connection could break before the answer arrives.

    The list is empty for the smallest tier, which is quick, for the sandbox, and for the route on
    which a lost answer can be fetched again.
    """
    try:
        if tier == TIERS[0] or settings.base_url() == settings.SANDBOX:
            return []
        if settings.route() == settings.ASYNC:
            return []
    except UserError:
        return []
    return [
        _(
            "A result of this size takes minutes. In case the connection breaks, choose “In two "
            "steps” in Settings."
        )
    ]


def _upload_bytes(layer: Gimp.Layer, box: Box, sent: tuple[int, int]) -> float:
    """Estimate the size of the uploaded PNG in bytes, by compressing some pixels of the layer.

    The upload shows `box` of the layer, and `sent` is the (width, height) of the upload.
    """
    box = box.intersection(pixels.extent(layer))
    if box.empty:
        return 0
    rows, columns = min(box.height, _SAMPLE_ROWS), min(box.width, _SAMPLE_COLUMNS)
    encoded = 0
    for number in range(_SAMPLES):
        x = box.x + (box.width - columns) * (number % 3) // 2
        y = box.y + (box.height - rows) * number // (_SAMPLES - 1)
        # Let GIMP read these pixels as a thumbnail. If this process read the layer itself while the
        # user deletes the layer, GIMP would kill this process.
        strip = Box(x, y, columns, rows)
        data, *_size, bpp = thumbnails.sub_thumbnail(layer, strip, (columns, rows))
        # Compress the difference of each pixel to the pixel on its left, as PNG encoders do.
        filtered = bytes((after - before) & 255 for before, after in zip(data, data[bpp:]))
        encoded += len(zlib.compress(filtered, 1))
    return encoded / (_SAMPLES * rows * columns) * sent[0] * sent[1]
