"""The README's commands: what users type is typed here, as it stands there, and works.

The Python-Fu and Script-Fu in it run in tests/gimp/test_readme.py.
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
READMES = ("README.md", "docs/README.zh-CN.md")
STARTS = ("python3 ", '"$python" ', "python=", "tests/", "cd ", "LANG=", "for ")
# Who runs what is not typed here, and a word of that file which shows it.
ELSEWHERE = {
    "python3 -I -m zipfile -e": ("tests/installer/test_release.py", "-m zipfile"),
    "cd ": ("tests/installer/test_release.py", "cwd=place"),
    "python3 -m installer demo": ("tests/installer/test_demo.py", '"demo"'),
    "python3 -m installer release": ("tests/installer/test_release.py", '"release"'),
    "python3 -m installer host --share": ("tests/gimp/test_readme.py", "batch"),
    "python3 -m installer host [": ("tests/installer/test_host.py", '"host", "--gimp", series'),
    "LANG=en_US.UTF-8 LANGUAGE=ja python3 -m installer host": ("tests/gimp/test_words.py", "ja"),
    "tests/run": ("tests/run", "pytest"),
    "tests/translate": ("tests/pure/test_words.py", "catalogues.updated"),
    "tests/screenshots": ("tests/gui/test_gui_words.py", "Window"),
    "tests/bench/faults": ("tests/service/test_faults.py", "faults"),
    "tests/bench/soak": ("tests/gimp/test_soak.py", "soak"),
    "tests/bench/installs": ("tests/installer/test_kills.py", "kills"),
    "tests/bench/repair": ("tests/pure/test_repair.py", "misbehaving.compared"),
    "tests/bench/fit": ("tests/pure/test_repair.py", "misbehaving.chain"),
    "tests/bench/speed": ("tests/gimp/test_speed.py", "speed.run"),
    "tests/bench/roots": ("tests/installer/test_roots.py", "roots.live"),
}


def blocks(readme: str) -> list[list[str]]:
    """The indented blocks that begin with a command, without comments."""
    text = (CHECKOUT / readme).read_text(encoding="utf-8")
    text = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    found: list[list[str]] = []
    for lines in re.findall(r"(?:^ {4}.+\n)+", text, re.MULTILINE):
        block = [line[4:].split("  #")[0].rstrip() for line in lines.splitlines()]
        if block[0].startswith(STARTS):
            found.append(block)
    return found


def block_with(words: str) -> list[str]:
    return next(block for block in blocks("README.md") if words in "\n".join(block))


@pytest.mark.parametrize("readme", READMES)
def test_every_command_is_run_by_a_test(readme):
    here = "\n".join(["\n".join(block_with(words)) for words in TYPED])
    commands = [line for block in blocks(readme) for line in block if line.startswith(STARTS)]
    assert len(commands) > 15
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
"""What tells the blocks apart that are typed here: see the tests below."""


@pytest.fixture
def bash(user, tmp_path, monkeypatch):
    """Type lines into a shell in an unpacked release, as a user who has used GIMP 3.0 before."""
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


def test_the_files_and_folders_it_names_are_there():
    text = (CHECKOUT / "README.md").read_text(encoding="utf-8")
    for name in re.findall(r"\]\((docs/[^)#]+)\)", text):
        assert (CHECKOUT / name).is_file(), name
    anchors = {re.sub(r"[^\w\- ]", "", line).strip().lower().replace(" ", "-")
               for line in re.findall(r"^##+ (.+)$", text, re.MULTILINE)}  # fmt: skip
    for anchor in re.findall(r"\]\(#([^)]+)\)", text):
        assert anchor in anchors, anchor


def test_the_translation_has_the_same_scripts_and_commands():
    english, chinese = ((CHECKOUT / name).read_text(encoding="utf-8") for name in READMES)
    fenced = re.compile(r"^```(?:python|scheme)\n.*?^```", re.MULTILINE | re.DOTALL)
    assert fenced.findall(chinese) == fenced.findall(english)
    commands = [{line for block in blocks(name) for line in block} for name in READMES]
    assert commands[1] <= commands[0]
    for name in re.findall(r"\]\(([\w-]+\.(?:png|jpg))\)", chinese):
        assert (CHECKOUT / "docs" / name).is_file(), name
