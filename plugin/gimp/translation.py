"""Translate messages for the user with the catalogue that GIMP has loaded for the plug-in.

The modules of this package import `_` and `plural` from here. Once this module is imported, the
modules outside the package use the same catalogue.
"""

from __future__ import annotations

import gettext
import re

from gi.repository import GLib

from plugin import translation


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


translation.use(_Gimps())
