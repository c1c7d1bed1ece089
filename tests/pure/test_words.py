"""The translations: complete, correct, compiled as by Babel, and used in the chosen language."""

from __future__ import annotations

import ast
import gettext
import io
import os
import re
import string
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from babel.messages import Message
from babel.messages.mofile import write_mo
from babel.messages.pofile import read_po, write_po
from hypothesis import given
from hypothesis import strategies as st

from installer import catalogue, payload
from plugin import job, translation
from plugin.errors import UserError
from tests import catalogues

LANGUAGES = catalogues.languages()
SOURCES = [
    path
    for path in sorted((catalogues.CHECKOUT / "plugin").rglob("*.py"))
    if "sandbox" not in path.parts
]
# The underscores in names such as DIMILINKS_API_KEY are not mnemonics.
_VARIABLE = re.compile(r"[A-Z]+(_[A-Z]+)+")
_TELLING = (
    *("Error", "Failure", "NotAccepted", "TaskEnded"),
    *("Unreadable", "NotReplaceable", "_unknown", "Stumbled", "Stale"),
)
"""The last parts of the names of what creates messages for the user."""


def _messages(language: str) -> Iterator[tuple[Message, list[str], list[str]]]:
    """Yield each message with its original forms and its translated forms."""
    for message in catalogues.read(language):
        if message.id:
            own, theirs = message.id, message.string
            yield (
                message,
                [own] if isinstance(own, str) else list(own),
                [theirs] if isinstance(theirs, str) else list(theirs),
            )


def _fields(text: str) -> set[tuple[str, str]]:
    parts = string.Formatter().parse(text)
    return {(name, spec or "") for _text, name, spec, _conversion in parts if name is not None}


def _mnemonics(text: str) -> list[str]:
    return re.findall(r"_(\w)", _VARIABLE.sub("", text))


def test_chinese_and_japanese_are_there() -> None:
    assert {"zh_CN", "ja"} <= set(LANGUAGES)


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.slow
def test_catalogues_are_up_to_date(language: str) -> None:
    now = (catalogues.FOLDER / f"{language}.po").read_bytes()
    assert catalogues.updated(language) == now, "run tests/translate, then translate what is new"


@pytest.mark.parametrize("language", LANGUAGES)
def test_everything_is_translated(language: str) -> None:
    for message, _own, theirs in _messages(language):
        assert all(theirs) and not message.fuzzy, message.id
    assert not catalogues.read(language).obsolete


@pytest.mark.parametrize("language", LANGUAGES)
def test_translations_keep_what_programs_need(language: str) -> None:
    for _message, own, theirs in _messages(language):
        # Some plural forms, such as the singular, may leave out the number.
        assert _fields(theirs[-1]) == _fields(own[-1]), own
        assert all(_fields(text) <= _fields(own[-1]) for text in theirs), own
        for text in theirs:
            assert len(_mnemonics(text)) == len(_mnemonics(own[0])), own
            assert text.endswith("…") == own[0].endswith("…"), own
            assert text == text.strip(), own
            for variable in _VARIABLE.finditer(own[0]):
                assert variable[0] in text, own
            if language in ("zh_CN", "ja"):
                marks = [f"(_{letter.upper()})" for letter in _mnemonics(own[0])]
                assert all(mark in text for mark in marks), own
            if language == "zh_CN":
                assert not re.search(r"[一-鿿][,;:?!]|[,;:?!][一-鿿]", text), own
            elif language == "ja":
                assert not re.search(r"[ぁ-鿿][,;?!.]( |$)|[“”]", text), own


def _said(node: ast.Call) -> list[ast.expr]:
    """Return the literal strings among the arguments of a call that creates a message."""
    name = getattr(node.func, "id", "")
    if name.endswith(
        (
            "Error",
            "Failure",
            "Unreadable",
            "NotReplaceable",
            "_unknown",
            "Stumbled",
            "NotAccepted",
            "TaskEnded",
        )
    ):
        return [a for a in node.args if isinstance(a, (ast.Constant, ast.JoinedStr))]
    return []


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_sentences_go_through_the_catalogue_whole(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if not isinstance(node, ast.Call):
            continue
        assert not _said(node), f"line {node.lineno}: a sentence without _()"
        if getattr(node.func, "id", "") in ("_", "plural"):
            texts = [a for a in node.args if isinstance(a, (ast.JoinedStr, ast.BinOp, ast.Call))]
            assert not texts, f"line {node.lineno}: no catalogue has what is put together first"


def _translations(data: bytes) -> dict[object, str]:
    known = dict(gettext.GNUTranslations(io.BytesIO(data))._catalog)  # type: ignore[attr-defined]
    known.pop("", None)
    return known


def _by_babel(text: str) -> bytes:
    out = io.BytesIO()
    write_mo(out, read_po(io.BytesIO(text.encode())))
    return out.getvalue()


HEAD = """msgid ""
msgstr ""
"Content-Type: text/plain; charset=UTF-8\\n"
"Plural-Forms: nplurals=3; plural=(n==1 ? 0 : n==2 ? 1 : 2);\\n"
"""
ODD = """
# A comment, and a reference
#: plugin/job.py
msgid "one"
msgstr "eins"

#, fuzzy, python-brace-format
msgid "fuzzy"
msgstr "ungefähr"
msgid "close behind"
msgstr "dicht dahinter"

msgid "untranslated"
msgstr ""

msgid ""
"many "
"lines\\n"
msgstr ""
"viele \\"Zeilen\\"\\n"
"mit \\\\ und\\tTab"

msgctxt "menu"
msgid "one"
msgstr "Eins"

#, fuzzy
msgctxt "window"
msgid "one"
msgstr "ungefähr eins"

msgid "{count} edit"
msgid_plural "{count} edits"
msgstr[0] "{count} a"
msgstr[1] "{count} b"
msgstr[2] "{count} c"

#~ msgid "obsolete"
#~ msgstr "veraltet"
"""


def test_a_catalogue_is_compiled_as_babel_does() -> None:
    data = catalogue.compiled(HEAD + ODD)
    assert _translations(data) == _translations(_by_babel(HEAD + ODD))
    read = gettext.GNUTranslations(io.BytesIO(data))
    assert read.gettext("many lines\n") == 'viele "Zeilen"\nmit \\ und\tTab'
    assert read.gettext("fuzzy") == "fuzzy" and read.gettext("close behind") == "dicht dahinter"
    assert read.pgettext("menu", "one") == "Eins" and read.pgettext("window", "one") == "one"
    assert [read.ngettext("{count} edit", "{count} edits", n)[-1] for n in (1, 2, 3)] == list("abc")
    for language in LANGUAGES:
        text = (catalogues.FOLDER / f"{language}.po").read_text("utf-8")
        assert _translations(catalogue.compiled(text)) == _translations(_by_babel(text))


_TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\0\4"), min_size=1)


@given(st.dictionaries(_TEXTS, _TEXTS))
@pytest.mark.slow
def test_any_text_survives_compiling(texts: dict[str, str]) -> None:
    catalog = read_po(io.BytesIO(HEAD.encode()))
    for own, theirs in texts.items():
        catalog.add(own, theirs)
    out = io.BytesIO()
    write_po(out, catalog)
    assert _translations(catalogue.compiled(out.getvalue().decode())) == texts


@pytest.mark.parametrize("text", ['"loose"', "msgid no quotes", 'msgid "open', 'what "is"'])
def test_a_damaged_catalogue_names_the_line(text: str) -> None:
    with pytest.raises(ValueError, match="line 6"):
        catalogue.compiled(f"{HEAD}\n{text}" if "loose" not in text else f"\n\n\n\n\n{text}")


def test_pure_modules_speak_by_the_catalogue_in_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(translation, "_catalogue", gettext.NullTranslations())
    with pytest.raises(UserError, match="prompt is empty"):
        job.check_prompt(" ")
    assert translation.plural("{count} edit", "{count} edits", 1) == "{count} edit"
    text = (catalogues.FOLDER / "zh_CN.po").read_text("utf-8")
    translation.use(gettext.GNUTranslations(io.BytesIO(catalogue.compiled(text))))
    with pytest.raises(UserError, match="提示词为空"):
        job.check_prompt(" ")


@pytest.mark.parametrize(
    ("language", "sentence"),
    [("zh_CN:en", "没有任务"), ("ja", "ありません"), ("de", "There is no")],
)
@pytest.mark.slow
def test_an_installed_worker_speaks_the_language_that_it_is_given(
    tmp_path: Path, language: str, sentence: str
) -> None:
    payload.install(tmp_path, {"": sys.executable})
    done = subprocess.run(
        [sys.executable, "-m", "plugin", "resume", "x"],
        cwd=payload.plugin_folder(tmp_path),
        env={**os.environ, "LANGUAGE": language},
        capture_output=True,
        encoding="utf-8",
    )
    assert done.returncode == 1 and sentence in done.stderr
