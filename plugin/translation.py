"""Translate messages for the user: `_` and `plural` for the worker and the modules in this folder.

Inside GIMP, the catalogue that GIMP has loaded for the plug-in is used (see `gimp/translation.py`).
The plug-in sends the language of this catalogue to the worker, which then uses the same one.
Elsewhere, as on the command line, gettext takes the language from the environment.

A checkout has no compiled catalogues. All messages are in English there.
"""

from __future__ import annotations

import gettext
from pathlib import Path

DOMAIN = "dimilinks_gimp"
FOLDER = Path(__file__).resolve().parents[1] / "locale"
"""The folder, beside the plug-in's main file, into which the installer puts the catalogues."""

_catalogue: gettext.NullTranslations = gettext.translation(DOMAIN, FOLDER, fallback=True)


def use(catalogue: gettext.NullTranslations) -> None:
    """Take all further translations from `catalogue`."""
    global _catalogue
    _catalogue = catalogue


def speak(language: str) -> None:
    """Use `language`, a code such as "ja", for all further translations."""
    use(gettext.translation(DOMAIN, FOLDER, [language], fallback=True))


def _(text: str) -> str:
    """Return the translation of `text` into the user's language."""
    return _catalogue.gettext(text)


def plural(one: str, many: str, count: int) -> str:
    """Return the translation of `one` or `many`, whichever fits `count`.

    Placeholders in it, such as `{count}`, are not filled in.
    """
    return _catalogue.ngettext(one, many, count)
