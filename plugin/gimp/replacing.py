"""Place the result of an edit by writing its pixels to the layer that was edited."""

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
"""The number of the variation that replaces a layer. Such an edit has only one variation."""


class Replacement:
    """A result that is written to the layer that it was made from."""

    def __init__(self, capture: Capture) -> None:
        self.capture = capture
        self.placed: list[Placed] = []
        self._stamp: object = None
        self._profile = ""
        self._copies = contextlib.ExitStack()
        self._new: Gimp.Layer | None = None
        """A copy of the layer that contains the new pixels, including the result."""
        self._pixels: Gegl.Buffer | None = None
        """The buffer of `_new`. It is kept so that GIMP need not send its pixels again."""
        self._box = capture.box

    def prepare(self) -> None:
        """Copy the layer, and compute the new pixels in the copy. Raises UserError."""
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
            # Blend in formats without alpha, so that neither the alpha of the layer nor that of the
            # result affects the colours.
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
        """Write the new pixels to the layer.

        Raises UserError. Raises Changed if the user has changed the image or layer, so that the
        result must be prepared again; in this case, nothing of the result is in the layer.
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
        # Compare again, because the user could have resized the layer since the first comparison.
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
        """Write the pixels of `new` to the layer. `before` is a copy of the unchanged layer.

        Raises Changed if nothing of the result is in the layer afterwards, and UserError if the
        layer was deleted or contains a part of the result.
        """
        layer = self.capture.layer
        name = layer.get_name()
        with self._writer(new, before, inside) as write:
            written = write(False)
            if written == Written.PART and writing.is_alike(layer, before):
                # The user has probably locked the layer, for which GIMP has killed the process that
                # was writing. Unlock the layer and write again, because the layer already shows a
                # part of the result.
                with unlocked(layer, "content"):
                    written = write(False)
                # If the second attempt wrote nothing, the layer still contains a part of the result
                # from the first attempt.
                written = Written.PART if written == Written.NOTHING else written
            if written == Written.PART and layer.is_valid():
                # Restore the original pixels.
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

        If the argument of this function is True, the function restores the original pixels instead.
        If GIMP has windows, the function lets another process write, because the user could lock or
        delete the layer meanwhile, and GIMP would kill the process that writes.
        """
        layer, image, box = self.capture.layer, self.capture.image, inside.box
        if not _has_windows():
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
        """Write the result, or restore the original pixels, in this process.

        The procedure that `write.run` calls does the same in another process.
        """
        layer = self.capture.layer
        if back:
            return writing.take_back(layer, before, inside, self._profile)
        assert self._pixels is not None
        return writing.write(layer, self._pixels, inside, before, self._profile)

    def _is_written(self, before: Gimp.Layer, inside: Inside) -> bool:
        """Return whether the layer contains the result now, after `_write`.

        While `_write` was running, the user could change the layer, so the result can be missing.
        """
        assert self._pixels is not None
        with copy_of(self.capture.layer) as written:
            if not writing.is_alike(written, before):
                # The user has resized or converted the layer after the result was written. If the
                # user had done this before, `_write` would have raised an exception.
                return True
            return writing.is_written(written, self._pixels, before.get_buffer(), inside)

    def let_go(self) -> None:
        """Delete the copy that `prepare` has made. The layer itself stays."""
        self._copies.close()
        self._new = self._pixels = None

    def _colours_only(self) -> bool:
        """Return whether the result changes only the colours of the layer, not its alpha."""
        return self.capture.keeps_alpha or bool(self.capture.layer.get_lock_alpha())


def _has_windows() -> bool:
    """Return whether GIMP runs with windows, in which a user can work."""
    # Without windows, there is no window class.
    return Gimp.wm_class() is not None


def _changed_meanwhile(name: str) -> UserError:
    return UserError(
        _(
            "“{name}” was changed while the result was written to it. Use Undo to remove what "
            "was written."
        ).format(name=name)
    )
