"""What the window says in a language: the tests press things by their names."""

from __future__ import annotations

import gettext
import io
import re

from installer import catalogue
from tests import catalogues

_MNEMONIC = re.compile(r"_(?=\w)")


class Language:
    """A language by its code, such as zh_CN; `en` is that of the sources.

    `environ` makes programs speak it.
    """

    def __init__(self, code: str) -> None:
        self.code = code
        self._catalogue = gettext.NullTranslations()
        self.environ = {"LANG": "C.UTF-8", "LANGUAGE": "", "LC_ALL": ""}
        if code != "en":
            text = (catalogues.FOLDER / f"{code}.po").read_text("utf-8")
            self._catalogue = gettext.GNUTranslations(io.BytesIO(catalogue.compiled(text)))
            # C.UTF-8 alone would leave everything in English.
            self.environ = {"LANG": "en_US.UTF-8", "LANGUAGE": code, "LC_ALL": ""}

    def __call__(self, text: str) -> str:
        """How a text of the sources stands on the screen."""
        return _MNEMONIC.sub("", self._catalogue.gettext(text))

    def begins(self, text: str) -> str:
        """The beginning of a text, up to what is filled in."""
        return self(text).partition("{")[0]
