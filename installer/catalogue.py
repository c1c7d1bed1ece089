"""Compile a catalogue of translations from the editable `.po` format to gettext's `.mo` format.

This module replaces GNU's msgfmt, which few machines have. It leaves out the entries that are
fuzzy (marked as uncertain), untranslated or obsolete, so that the plug-in shows these texts in
English.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable, Iterator

_MAGIC = 0x950412DE
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r"}
_LINE = re.compile(r'(?:(msgctxt|msgid|msgid_plural|msgstr(?:\[\d+\])?)\s*)?("(?:[^"\\]|\\.)*")')


def compiled(text: str) -> bytes:
    """Return the content of the `.mo` file for `text`, the content of a `.po` file.

    Raises ValueError, whose message contains the faulty line, if `text` has a syntax error.
    """
    entries = {}
    for entry in _entries(text.split("\n")):
        key, value = entry.get("msgid", ""), entry.get("msgstr", "")
        if "msgctxt" in entry:
            key = f"{entry['msgctxt']}\4{key}"
        if "msgid_plural" in entry:
            forms = [entry[name] for name in sorted(entry) if name.startswith("msgstr[")]
            key = f"{key}\0{entry['msgid_plural']}"
            value = "\0".join(forms) if all(forms) else ""
        if value:
            entries[key.encode()] = value.encode()
    # Sort the keys by their bytes, because gettext finds a key by binary search.
    texts = sorted(entries.items())
    return _file([key for key, _value in texts], [value for _key, value in texts])


def _entries(lines: Iterable[str]) -> Iterator[dict[str, str]]:
    """Yield each entry that is not fuzzy, as a dictionary from keyword, such as msgid, to text."""
    entry: dict[str, str] = {}
    fuzzy = upcoming = False
    field = ""
    for number, line in enumerate(map(str.strip, lines), 1):
        if not line or line.startswith("#"):
            upcoming |= line.startswith("#,") and "fuzzy" in line
            continue
        found = _LINE.fullmatch(line)
        if not found or not (found[1] or field):
            raise ValueError(f"line {number} is none of a catalogue: {line}")
        if found[1] == "msgctxt" or (found[1] == "msgid" and field != "msgctxt"):
            if entry and not fuzzy:
                yield entry
            entry, fuzzy, upcoming = {}, upcoming, False
        field = found[1] or field
        part = re.sub(r"\\(.)", lambda escape: _ESCAPES.get(escape[1], escape[1]), found[2][1:-1])
        entry[field] = entry.get(field, "") + part
    if entry and not fuzzy:
        yield entry


def _file(keys: list[bytes], values: list[bytes]) -> bytes:
    """Return the content of a `.mo` file: header, table of keys, table of values, and all texts.

    Each table contains the length of each text and the offset of the text in the file, in bytes.
    """
    head = 7 * 4
    place = head + 16 * len(keys)
    tables = b""
    for text in (*keys, *values):
        tables += struct.pack("<II", len(text), place)
        place += len(text) + 1
    start = struct.pack("<7I", _MAGIC, 0, len(keys), head, head + 8 * len(keys), 0, head)
    return start + tables + b"".join(text + b"\0" for text in (*keys, *values))
