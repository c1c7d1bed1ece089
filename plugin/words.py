"""Words for the user, in the user's language: `_` for the pure modules and the worker.

Inside GIMP its own catalogue answers (see `gimp/messages.py`), in the worker the same one by the
language that the plug-in hands over, elsewhere by the environment's. A checkout has no compiled
catalogues: it speaks English.
"""

from __future__ import annotations

import gettext
from pathlib import Path

DOMAIN = "dimilinks_gimp"
FOLDER = Path(__file__).resolve().parents[1] / "locale"
"""Where the installer puts the compiled catalogues: beside the plug-in's main file."""

_catalogue: gettext.NullTranslations = gettext.translation(DOMAIN, FOLDER, fallback=True)


def use(catalogue: gettext.NullTranslations) -> None:
    """Let `catalogue` answer from now on."""
    global _catalogue
    _catalogue = catalogue


def speak(language: str) -> None:
    """Answer in that language, by its code, from now on."""
    use(gettext.translation(DOMAIN, FOLDER, [language], fallback=True))


def _(text: str) -> str:
    """Return `text` in the user's language."""
    return _catalogue.gettext(text)


def plural(one: str, many: str, count: int) -> str:
    """Return the one of the two that fits `count`, in the user's language, yet to be formatted."""
    return _catalogue.ngettext(one, many, count)
