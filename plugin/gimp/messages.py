"""Words for the user, in the user's language, and the errors that carry them to GIMP."""

from __future__ import annotations

import traceback

from gi.repository import GLib

from plugin import settings


def _(text: str) -> str:
    """Return `text` in the user's language, from the plug-in's own catalogue."""
    return str(GLib.dgettext(None, text))


def unforeseen(error: Exception) -> str:
    """Return the sentence for a fault of ours, whose traceback goes to standard error."""
    traceback.print_exception(error)
    return _(
        "Something unforeseen went wrong ({why}). What the service delivered is kept in {folder}."
    ).format(why=error or type(error).__name__, folder=settings.home() / "jobs")


class EditError(Exception):
    """An edit that can't be made, with a sentence that says what to do."""


class CallingError(EditError):
    """The procedure was called with arguments that make no edit."""


class NotReplaceable(EditError):
    """The result can't go into the layer itself, but into a new one."""
