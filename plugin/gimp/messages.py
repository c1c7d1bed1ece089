"""Words for the user, in the user's language, and the errors that carry them to GIMP."""

from __future__ import annotations

import gettext
import re

from gi.repository import GLib

from plugin import words


def _(text: str) -> str:
    """Return `text` in the user's language, from the plug-in's own catalogue."""
    return str(GLib.dgettext(None, text))


def plural(one: str, many: str, count: int) -> str:
    """Return the one of the two that fits `count`, in the user's language, yet to be formatted."""
    return str(GLib.dngettext(None, one, many, count))


def language() -> str:
    """Return the language that `_` speaks, for the worker.

    GIMP finds it in its preferences, the environment or the system, differently on every platform;
    the head of the catalogue that it found says what came of that.
    """
    found = re.search(r"^Language: *(\w+)", GLib.dgettext(None, ""), re.MULTILINE)
    return found[1] if found else "en"


class _Gimps(gettext.NullTranslations):
    """The catalogue that GIMP found, for the pure modules."""

    def gettext(self, message: str) -> str:
        return _(message)

    def ngettext(self, msgid1: str, msgid2: str, n: int) -> str:
        return plural(msgid1, msgid2, n)


words.use(_Gimps())


def unforeseen(error: Exception) -> str:
    """Return the sentence for a fault of ours, whose traceback goes to standard error."""
    # Loaded here: hardly ever needed.
    import traceback

    from plugin import settings

    traceback.print_exception(error)
    try:
        folder = settings.home() / "jobs"
    except ValueError as unusable:
        # The cause, and nothing can have been kept there.
        return str(unusable)
    return _(
        "Something unforeseen went wrong ({why}). What the service delivered is kept in {folder}."
    ).format(why=error or type(error).__name__, folder=folder)


class EditError(Exception):
    """An edit that can't be made, with a sentence that says what to do."""


class CallingError(EditError):
    """The procedure was called with arguments that make no edit."""


class WorkerBroken(EditError):
    """The worker can't run; the window has a button that mends it."""


class NotReplaceable(EditError):
    """The result can't go into the layer itself, but into a new one."""
