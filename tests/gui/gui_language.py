"""The texts of the window in each language. Tests find widgets by these names."""

from __future__ import annotations

import gettext
import io
import re

from installer import catalogue
from tests import catalogues

_MNEMONIC = re.compile(r"_(?=\w)")


class Language:
    """The language with a code such as zh_CN. `en` is the language of the source code.

    Programs use the language if they have the variables of `environ`.
    """

    def __init__(self, code: str) -> None:
        self.code = code
        self._catalogue = gettext.NullTranslations()
        self.environ = {"LANG": "C.UTF-8", "LANGUAGE": "", "LC_ALL": ""}
        if code != "en":
            text = (catalogues.FOLDER / f"{code}.po").read_text("utf-8")
            self._catalogue = gettext.GNUTranslations(io.BytesIO(catalogue.compiled(text)))
            # With C.UTF-8, everything would stay in English.
            self.environ = {"LANG": "en_US.UTF-8", "LANGUAGE": code, "LC_ALL": ""}

    def __call__(self, text: str) -> str:
        """Return a text of the source code as it appears on the screen."""
        return _MNEMONIC.sub("", self._catalogue.gettext(text))

    def begins(self, text: str) -> str:
        """Return the beginning of a text on the screen, up to its first placeholder."""
        return self(text).partition("{")[0]
