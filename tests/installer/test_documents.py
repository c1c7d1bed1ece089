"""The documents: the commands in them work as printed, and the links lead somewhere.

tests/gimp/test_documents.py runs their Python-Fu and Script-Fu.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]
DOCUMENTS = [
    path.relative_to(CHECKOUT).as_posix()
    for path in sorted((*CHECKOUT.glob("*.md"), *(CHECKOUT / "docs").rglob("*.md")))
]
FRONT_PAGES = ("README.md", "docs/README.zh-CN.md", "docs/README.ja.md")
TRANSLATIONS = {
    **dict.fromkeys(FRONT_PAGES[1:], FRONT_PAGES[0]),
    **{name: name.replace("zh-CN/", "") for name in DOCUMENTS if "zh-CN/" in name},
}
"""The translations, with the document that each translates."""
STARTS = ("python3 ", '"$python" ', "python=", "tests/", "cd ", "LANG=", "for ")
# The files that run the other commands, each with a word in it that shows this.
ELSEWHERE = {
    "python3 -I -m zipfile -e": ("tests/installer/test_release.py", "-m zipfile"),
    "cd ": ("tests/installer/test_release.py", "cwd=place"),
    "python3 -m installer demo": ("tests/installer/test_demo.py", '"demo"'),
    "python3 -m installer release": ("tests/installer/test_release.py", '"release"'),
    "python3 -m installer host --share": ("tests/gimp/test_documents.py", "batch"),
    "python3 -m installer host [": ("tests/installer/test_host.py", '"host", "--gimp", series'),
    "LANG=en_US.UTF-8 LANGUAGE=ja python3 -m installer host": ("tests/gimp/test_words.py", "ja"),
    "tests/run": ("tests/run", "pytest"),
    "tests/translate": ("tests/pure/test_words.py", "catalogues.updated"),
    "tests/screenshots": ("tests/gui/test_gui_words.py", "Window"),
    "tests/bench/faults": ("tests/service/test_faults.py", "faults"),
    "tests/bench/soak": ("tests/gimp/test_soak.py", "soak"),
    "tests/bench/installs": ("tests/installer/test_kills.py", "kills"),
    "tests/bench/promise": ("tests/gimp/test_promise.py", "promise.run"),
    "tests/bench/meanwhile": ("tests/gui/test_gui_meanwhile.py", "judge.judge"),
    "tests/bench/repair": ("tests/pure/test_repair.py", "misbehaving.compared"),
    "tests/bench/fit": ("tests/pure/test_repair.py", "misbehaving.chain"),
    "tests/bench/speed": ("tests/gimp/test_speed.py", "speed.run"),
    "tests/bench/roots": ("tests/installer/test_roots.py", "roots.live"),
}


def blocks(document: str) -> list[list[str]]:
    """Return the indented blocks that begin with a command, without comments."""
    text = (CHECKOUT / document).read_text(encoding="utf-8")
    text = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    found: list[list[str]] = []
    for lines in re.findall(r"(?:^ {4}.+\n)+", text, re.MULTILINE):
        block = [line[4:].split("  #")[0].rstrip() for line in lines.splitlines()]
        if block[0].startswith(STARTS):
            found.append(block)
    return found


def block_with(words: str) -> list[str]:
    found = (block for document in DOCUMENTS for block in blocks(document))
    return next(block for block in found if words in "\n".join(block))


def test_every_command_is_run_by_a_test():
    here = "\n".join(["\n".join(block_with(words)) for words in TYPED])
    found = [block for document in DOCUMENTS for block in blocks(document)]
    commands = [line for block in found for line in block if line.startswith(STARTS)]
    assert len(commands) > 30
    for command in commands:
        if command in here:
            continue
        who = [where for start, where in ELSEWHERE.items() if command.startswith(start)]
        assert who, f"nobody runs: {command}"
        file, word = who[0]
        assert word in (CHECKOUT / file).read_text(encoding="utf-8"), (command, file)


TYPED = (
    "--dry-run",
    "for picture in",
    "wheels packages",
    "plugin edit photo.jpg",
    "key store",
    "service --test",
)
"""Words by which the tests below find the blocks that they run."""


@pytest.fixture
def bash(user, tmp_path, monkeypatch):
    """Return a function that runs lines in a shell, as a user who has used GIMP 3.0 before.

    The shell is in an unpacked release, which is `place` of the function.
    """
    if shutil.which("gimp-console"):
        pytest.skip("this machine has a GIMP of its own, which would be started")
    place = tmp_path / "dimilinks-gimp"
    skip = shutil.ignore_patterns(".*", "__pycache__")
    shutil.copytree(CHECKOUT, place, ignore=skip)
    (user / ".config/GIMP/3.0").mkdir(parents=True)
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "python3").symlink_to(sys.executable)
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("DIMILINKS_BASE_URL", "sandbox")

    def run(lines: list[str], stdin: str = "") -> str:
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", "\n".join(lines)],
            cwd=place,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, (lines, done.stdout, done.stderr)
        return done.stdout

    run.place = place
    return run


def test_what_installing_says(bash, user):
    folder = user / ".config/GIMP/3.0/plug-ins/dimilinks_gimp"
    dry, listing, doctor, uninstall, everything = block_with("--dry-run")
    assert "Will put" in bash([dry]) and not folder.exists()
    bash(["python3 -m installer"])
    assert folder.is_dir()
    assert str(user) in bash([listing])
    assert "All is well." in bash([doctor])
    assert "Removed Dimilinks" in bash([uninstall]) and not folder.exists()
    bash([everything])


def test_what_is_said_for_a_machine_without_a_network(bash, user):
    bash(block_with("wheels packages"))
    assert (user / ".config/GIMP/3.0/plug-ins/dimilinks_gimp").is_dir()
    assert list((bash.place / "packages").glob("numpy-*.whl"))


def test_what_is_said_of_the_command_line(bash, coffee):
    coffee.save(bash.place / "photo.jpg")
    coffee.convert("L").point(lambda value: 255 * (value > 128)).save(bash.place / "mask.png")
    python, edit, jobs, resume = block_with("plugin edit photo.jpg")
    listed = bash([python, edit, jobs])
    assert (bash.place / "results").is_dir()
    bash([python, resume.replace("ID", listed.splitlines()[-1].split()[0])])
    store, forget = block_with("key store")
    bash([python, store], "sk-a-key\n")
    bash([python, forget])
    assert '"works": true' in bash([python, block_with("service --test")[0]])


def test_what_is_said_of_a_folder_of_pictures(bash, coffee):
    (bash.place / "photos").mkdir()
    for name in ("one", "a two"):
        coffee.save(bash.place / f"photos/{name}.jpg")
    python = block_with("plugin edit photo.jpg")[0]
    bash([python, *block_with("for picture in")])
    assert len(list((bash.place / "edited").iterdir())) == 2


def anchors(document: Path) -> set[str]:
    """Return what links may have after #: the headings, spelled as on GitHub."""
    headings = re.findall(r"^#+ (.+)$", document.read_text(encoding="utf-8"), re.MULTILINE)
    return {
        re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-") for heading in headings
    }


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_lead_somewhere(document):
    here = CHECKOUT / document
    links = re.findall(r"\]\(([^)\s]+)\)", here.read_text(encoding="utf-8"))
    for link in links:
        # This is the download page of the forge, not a file of the project.
        if link.endswith("../../releases"):
            continue
        name, _, anchor = link.partition("#")
        target = here.parent / name if name else here
        assert target.is_file(), link
        assert not anchor or anchor in anchors(target), link


def linked(document: str) -> set[str]:
    """Return the documents that a document links to, as paths in the checkout."""
    here = CHECKOUT / document
    links = re.findall(r"\]\(([^)#\s]+\.md)\)", here.read_text(encoding="utf-8"))
    return {(here.parent / link).resolve().relative_to(CHECKOUT).as_posix() for link in links}


def test_the_front_pages_are_short_and_lead_to_every_document():
    for front in FRONT_PAGES:
        assert set(FRONT_PAGES) - {front} <= linked(front)
        assert len((CHECKOUT / front).read_text(encoding="utf-8").splitlines()) <= 150
    assert set(DOCUMENTS) <= set().union(*map(linked, FRONT_PAGES))


@pytest.mark.parametrize("translated", TRANSLATIONS)
def test_a_translation_has_the_same_scripts_and_commands(translated):
    original = TRANSLATIONS[translated]
    texts = [(CHECKOUT / name).read_text(encoding="utf-8") for name in (original, translated)]
    fenced = re.compile(r"^```(?:python|scheme)\n.*?^```", re.MULTILINE | re.DOTALL)
    assert fenced.findall(texts[1]) == fenced.findall(texts[0])
    commands = [
        [line for block in blocks(name) for line in block] for name in (original, translated)
    ]
    assert commands[1] == commands[0]
