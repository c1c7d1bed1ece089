"""Place the result of an edit in the layer that it was made from."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import astuple

from gi.repository import Babl, Gegl, Gimp

from plugin.errors import UserError
from plugin.gimp import location, weights
from plugin.gimp.canvas import pixels, writing
from plugin.gimp.canvas.layers import check_replaceable, copy_of, keeping, let_go, made, unlocked
from plugin.gimp.canvas.undo import keep_for_undo
from plugin.gimp.canvas.writing import Inside, Written
from plugin.gimp.capture import Capture
from plugin.gimp.location import Changed, check_there, fitted_pictures, stamp
from plugin.gimp.procedures import write
from plugin.gimp.results import Placed
from plugin.gimp.translation import _

_REPLACING = 1
"""The variation that replaces a layer. There is only one."""
_QUICK_BYTES = 30_000_000, 9_000_000
"""The most bytes that this process writes itself, for a whole layer and for a selected part.

This is only done if nobody can lock or delete the layer meanwhile. Starting another process would
take longer than writing.
"""


class Replacement:
    """A result that is written to the layer that it was made from."""

    def __init__(self, capture: Capture) -> None:
        self.capture = capture
        self.placed: list[Placed] = []
        self._stamp: object = None
        self._profile = ""
        self._copies = contextlib.ExitStack()
        self._new: Gimp.Layer | None = None
        """A copy of the layer, with the pixels of the result where they may change."""
        self._pixels: Gegl.Buffer | None = None
        """The buffer of this copy, kept so that its pixels need not come from GIMP again."""
        self._box = capture.box

    def prepare(self) -> None:
        """Compute the new pixels of the layer. Raises UserError."""
        capture, layer = self.capture, self.capture.layer
        check_there(capture)
        self._stamp = stamp(capture)
        self._profile = writing.profile(capture.image)
        self._box = location.find(capture)
        path = capture.job.folder / fitted_pictures(capture)[_REPLACING]
        self._new = self._copies.enter_context(copy_of(layer))
        self._pixels = new = self._new.get_buffer()
        if capture.selection is None:
            pixels.load_png(path, new)
            return
        shares = Gegl.Buffer.new(pixels.SHARES, 0, 0, self._box.width, self._box.height)
        weights.write(capture, shares, pixels.SHARES)
        part = self._box.intersection(pixels.extent(self._new))
        if self._colours_only():
            # Blend the colours only, so that neither alpha channel affects them.
            below_format = "RGB float"
            top = Gegl.Buffer.new("R'G'B' u8", 0, 0, self._box.width, self._box.height)
            pixels.load_png(path, top)
        else:
            below_format = Babl.get_name(self._new.get_format())
            top = pixels.read_png(path)
        below = Gegl.Buffer.new(below_format, *astuple(part))
        pixels.copy(new, below, part)
        pixels.lay_over(below, top, shares, self._box, new)

    def put(self) -> None:
        """Write the pixels to the layer.

        Raises UserError, and Changed if the result must be prepared again. After Changed, the
        layer has its own pixels.
        """
        capture, layer = self.capture, self.capture.layer
        assert self._new is not None
        check_there(capture)
        check_replaceable(layer)
        if stamp(capture) != self._stamp:
            raise Changed
        if not keep_for_undo(layer):
            raise UserError(
                _("The edit is ready, but GIMP can't change “{name}” now ({why}).").format(
                    name=layer.get_name(), why=Gimp.get_pdb().get_last_error()
                )
            )
        # The user may have resized the layer at this very moment.
        if stamp(capture) != self._stamp:
            raise Changed
        at = capture.on_canvas
        part = self._box.intersection(pixels.extent(layer))
        there = part.moved(at.x - self._box.x, at.y - self._box.y)
        inside = Inside(part, capture.selection, there, self._colours_only())
        with copy_of(layer) as before:
            self._write(self._new, before, inside)
            check_there(capture)
            layer.update(part.x, part.y, part.width, part.height)
            if not self._is_written(before, inside):
                raise _changed_meanwhile(layer.get_name())
        self.placed = [Placed(capture.job, _REPLACING, layer)]

    def _write(self, new: Gimp.Layer, before: Gimp.Layer, inside: Inside) -> None:
        """Write the pixels to the layer, of which `before` is a copy.

        Raises UserError, and Changed if the layer has its own pixels again.
        """
        layer = self.capture.layer
        name = layer.get_name()
        with self._writer(new, before, inside) as write:
            written = write(False)
            if written == Written.PART and writing.is_alike(layer, before):
                # GIMP kills a process that writes to a layer while it is being locked. The user may
                # already see half of the result, so the rest is written as well.
                with unlocked(layer, "content"):
                    written = write(False)
                # The layer contains a part from the first attempt.
                written = Written.PART if written == Written.NOTHING else written
            if written == Written.PART and layer.is_valid():
                with unlocked(layer, "content"):
                    written = write(True)
            if written == Written.NOTHING:
                raise Changed
            if written == Written.PART:
                check_there(self.capture)
                raise _changed_meanwhile(name)

    @contextlib.contextmanager
    def _writer(
        self, new: Gimp.Layer, before: Gimp.Layer, inside: Inside
    ) -> Iterator[Callable[[bool], Written]]:
        """Yield a function that writes the result to the layer.

        Called with True, it takes back what was written. GIMP kills a process that writes to a
        layer while the layer is locked or deleted. Where users work, another process therefore
        writes the pixels.
        """
        layer, image, box = self.capture.layer, self.capture.image, inside.box
        chosen = inside.selection is not None or (inside.colours_only and layer.has_alpha())
        is_quick = box.width * box.height * layer.get_bpp() <= _QUICK_BYTES[chosen]
        # The window class is None if GIMP runs without windows.
        if is_quick and Gimp.wm_class() is None:
            yield lambda back: keeping(image, lambda: self._write_here(before, inside, back))
            return
        with contextlib.ExitStack() as used:
            mask = None
            if inside.selection is not None:
                mask = made(new.create_mask(Gimp.AddMaskType.BLACK))
                used.callback(let_go, image, mask)
                writing.fill_mask(mask, inside)
            arguments = layer, new, before, mask, box, inside.colours_only, self._profile
            yield lambda back: write.run(*arguments, back)

    def _write_here(self, before: Gimp.Layer, inside: Inside, back: bool) -> Written:
        """Do the work of `write.run` in this process."""
        layer = self.capture.layer
        if back:
            return writing.take_back(layer, before, inside, self._profile)
        assert self._pixels is not None
        return writing.write(layer, self._pixels, inside, before, self._profile)

    def _is_written(self, before: Gimp.Layer, inside: Inside) -> bool:
        """Return whether the layer contains the result now, whatever the user did meanwhile."""
        assert self._pixels is not None
        with copy_of(self.capture.layer) as written:
            if not writing.is_alike(written, before):
                # The layer was resized or converted after the result was written. If this had
                # happened before, nothing would have been written.
                return True
            return writing.is_written(written, self._pixels, before.get_buffer(), inside)

    def let_go(self) -> None:
        """Delete the prepared pixels."""
        self._copies.close()
        self._new = self._pixels = None

    def _colours_only(self) -> bool:
        """Return whether the alpha of the layer stays the same."""
        return self.capture.keeps_alpha or bool(self.capture.layer.get_lock_alpha())


def _changed_meanwhile(name: str) -> UserError:
    return UserError(
        _(
            "“{name}” was changed while the result was written to it. Use Undo to remove what "
            "was written."
        ).format(name=name)
    )
