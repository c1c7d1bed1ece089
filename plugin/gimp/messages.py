"""Words for the user, in the user's language, and the errors that carry them to GIMP."""

from __future__ import annotations

from gi.repository import GLib


def _(text: str) -> str:
    """Return `text` in the user's language, from the plug-in's own catalogue."""
    return str(GLib.dgettext(None, text))


class EditError(Exception):
    """An edit that can't be made, with a sentence that says what to do."""


class CallingError(EditError):
    """The procedure was called with arguments that make no edit."""


class NotReplaceable(EditError):
    """The result can't go into the layer itself, but into a new one."""
