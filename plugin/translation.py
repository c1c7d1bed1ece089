"""Translate messages for the user, in the worker and in the modules of this folder.

The translations are in catalogues, one for each language. Inside GIMP, the functions `_` and
`plural` use the catalogue that GIMP has loaded for the plug-in (see `gimp/translation.py`). The
plug-in sends the language of this catalogue to the worker, so that the worker uses the same
language. On the command line, gettext takes the language from the environment.

A checkout of the source code contains no compiled catalogues, so all messages are in English there.
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

    Placeholders in the translation, such as `{count}`, are left for the caller to fill in.
    """
    return _catalogue.ngettext(one, many, count)
