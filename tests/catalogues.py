"""Read the catalogues of translations, compare them with the sources, and write them.

`tests/translate` updates the catalogues. `tests/pure/test_words.py` checks that they are up to
date.
"""

from __future__ import annotations

import io
from pathlib import Path

from babel.messages import Catalog
from babel.messages.extract import extract_from_file
from babel.messages.pofile import read_po, write_po

CHECKOUT = Path(__file__).resolve().parent.parent
FOLDER = CHECKOUT / "plugin" / "locale"
# The sandbox's texts are not translated, because a real service's would not be.
_WITHOUT_WORDS = CHECKOUT / "plugin" / "worker" / "sandbox"
_KEYWORDS = {"_": None, "plural": (1, 2)}


def languages() -> list[str]:
    return sorted(path.stem for path in FOLDER.glob("*.po"))


def sources() -> Catalog:
    """Return a catalogue of every text in the sources, with the files that contain it."""
    catalog = Catalog()
    for path in sorted((CHECKOUT / "plugin").rglob("*.py")):
        if path.is_relative_to(_WITHOUT_WORDS):
            continue
        name = path.relative_to(CHECKOUT).as_posix()
        for _line, text, comments, _context in extract_from_file(
            "python", path, _KEYWORDS, ["Translators:"], options={"encoding": "utf-8"}
        ):
            catalog.add(text, locations=[(name, 1)], auto_comments=comments)
    return catalog


def read(language: str) -> Catalog:
    with (FOLDER / f"{language}.po").open("rb") as file:
        return read_po(file, locale=language)


def written(catalog: Catalog, language: str) -> bytes:
    """Return the content of the catalogue's file.

    It has no dates and no line numbers, which would change with every update.
    """
    out = io.BytesIO()
    write_po(
        out,
        catalog,
        width=98,
        omit_header=True,
        sort_output=True,
        ignore_obsolete=True,
        include_lineno=False,
    )
    head = (
        f"# Dimilinks for GIMP: {catalog.locale.english_name}\n"
        'msgid ""\n'
        'msgstr ""\n'
        f'"Language: {language}\\n"\n'
        '"MIME-Version: 1.0\\n"\n'
        '"Content-Type: text/plain; charset=UTF-8\\n"\n'
        '"Content-Transfer-Encoding: 8bit\\n"\n'
        f'"Plural-Forms: {catalog.plural_forms}\\n"\n\n'
    )
    return head.encode() + out.getvalue().strip() + b"\n"


def updated(language: str) -> bytes:
    """Return the content of the catalogue's file, updated with the current texts of the sources.

    Existing translations are kept. A new text that is similar to a former one gets that one's
    translation, marked as fuzzy.
    """
    known = (FOLDER / f"{language}.po").exists()
    catalog = read(language) if known else Catalog(locale=language)
    catalog.update(sources())
    return written(catalog, language)
