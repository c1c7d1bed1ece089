"""Translate messages for the user with the catalogue that GIMP has loaded for the plug-in.

A catalogue is a file of translated messages. The modules of the package `plugin.gimp` import `_`
and `plural` from this module. The modules outside the package import them from
`plugin.translation`, which uses the same catalogue once this module is imported.
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

    Placeholders in the text, such as `{count}`, are not filled in.
    """
    return str(GLib.dngettext(None, one, many, count))


def language() -> str:
    """Return the code of the language that `_` translates to, so that the worker can use it, too.

    GIMP takes the language from its preferences, the environment or the system, in a different way
    on each platform. It is therefore simpler to read the language from the header of the catalogue
    that GIMP has loaded.
    """
    found = re.search(r"^Language: *(\w+)", GLib.dgettext(None, ""), re.MULTILINE)
    return found[1] if found else "en"


class _Gimps(gettext.NullTranslations):
    """The catalogue that GIMP has loaded, as an object that `plugin.translation` can use."""

    def gettext(self, message: str) -> str:
        return _(message)

    def ngettext(self, msgid1: str, msgid2: str, n: int) -> str:
        return plural(msgid1, msgid2, n)


translation.use(_Gimps())
