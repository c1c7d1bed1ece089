"""Translate messages for the user, and define the errors that carry them to GIMP."""

from __future__ import annotations

import gettext
import re

from gi.repository import GLib

from plugin import words


def _(text: str) -> str:
    """Return the translation of `text` from the plug-in's own catalogue."""
    return str(GLib.dgettext(None, text))


def plural(one: str, many: str, count: int) -> str:
    """Return the translation of `one` or `many`, whichever fits `count`.

    Placeholders in it, such as `{count}`, are not filled in.
    """
    return str(GLib.dngettext(None, one, many, count))


def language() -> str:
    """Return the code of the language that `_` translates to, for use by the worker.

    GIMP takes the language from its preferences, the environment or the system, in a different way
    on each platform. The header of the catalogue that it has loaded contains the outcome.
    """
    found = re.search(r"^Language: *(\w+)", GLib.dgettext(None, ""), re.MULTILINE)
    return found[1] if found else "en"


class _Gimps(gettext.NullTranslations):
    """The catalogue that GIMP has loaded, for the modules outside this package."""

    def gettext(self, message: str) -> str:
        return _(message)

    def ngettext(self, msgid1: str, msgid2: str, n: int) -> str:
        return plural(msgid1, msgid2, n)


words.use(_Gimps())


def unforeseen(error: Exception) -> str:
    """Return the message for an unexpected exception, and print its traceback to standard error."""
    # Imported here because it is rarely needed.
    import traceback

    from plugin import settings

    traceback.print_exception(error)
    try:
        folder = settings.home() / "jobs"
    except ValueError as unusable:
        # This is the cause of the failure. Nothing can have been kept in the folder.
        return str(unusable)
    return _(
        "Something unforeseen went wrong ({why}). What the service delivered is kept in {folder}."
    ).format(why=error or type(error).__name__, folder=folder)


class EditError(Exception):
    """An edit can't be made. The message tells the user what to do."""


class CallingError(EditError):
    """The procedure was called with invalid arguments."""


class WorkerBroken(EditError):
    """The worker can't run. The window offers to repair it."""


class NotReplaceable(EditError):
    """The result can't be written to the layer itself, but can become a new layer."""
