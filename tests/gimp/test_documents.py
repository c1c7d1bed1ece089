"""The scripts in docs/scripting.md, as they are printed, and the recipes in docs/guide.md."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from installer.private.host import PrivateGimp

DOCS = Path(__file__).resolve().parents[2] / "docs"
SCRIPTING = DOCS / "scripting.md"


def fenced(kind: str, words: str) -> str:
    found = re.findall(rf"^```{kind}\n(.*?)^```", SCRIPTING.read_text("utf-8"), re.M | re.S)
    return next(text for text in found if words in text)


def run(gimp: PrivateGimp, path: Path, *arguments: Path, share: Path) -> str:
    out, err = io.BytesIO(), io.BytesIO()
    code = gimp.script(
        path,
        map(str, arguments),
        env={"DIMILINKS_BASE_URL": "sandbox", "DIMILINKS_HOME": str(share / "home")},
        shares=[share],
        out=out,
        err=err,
        timeout=240,
    )
    assert code == 0, out.getvalue().decode() + err.getvalue().decode()
    return out.getvalue().decode()


PHOTO = """
from gi.repository import Gimp
image = Gimp.Image.new(300, 200, Gimp.ImageBaseType.RGB)
layer = Gimp.Layer.new(image, "photo", 300, 200, Gimp.ImageType.RGB_IMAGE, 100, 0)
image.insert_layer(layer, None, 0)
layer.fill(Gimp.FillType.WHITE)
image.set_selected_layers([layer])
image.select_rectangle(Gimp.ChannelOps.REPLACE, 100, 50, 90, 80)
"""
SCRIPT_FU = """
procedure = Gimp.get_pdb().lookup_procedure("plug-in-script-fu-eval")
config = procedure.create_config()
config.set_property("run-mode", Gimp.RunMode.NONINTERACTIVE)
begin = f"(let* ((image {image.get_id()}) (drawables #({layer.get_id()})))"
config.set_property("script", f"{begin} {SCHEME})")
print(int(procedure.run(config).index(0)), len(image.get_layers()))
"""


@pytest.mark.parametrize("language", ["python", "scheme"])
def test_the_procedure_is_called_as_documented(gimp, tmp_path, language):
    script = tmp_path / "script.py"
    if language == "python":
        script.write_text(PHOTO + fenced("python", "layers =") + "print(len(layers))\n", "utf-8")
        assert run(gimp, script, share=tmp_path) == "1\n"
    else:
        text: Any = fenced("scheme", "dimilinks-edit")
        script.write_text(f"{PHOTO}\nSCHEME = {text!r}\n{SCRIPT_FU}", "utf-8")
        # The script replaces the layer, so the image still has one. The 3 means success.
        assert run(gimp, script, share=tmp_path) == "3 1\n"


def test_a_folder_of_pictures_is_edited_as_documented(gimp, tmp_path):
    photos, edited = tmp_path / "photos", tmp_path / "edited"
    for folder in (photos, edited):
        folder.mkdir()
    for name in ("one", "two"):
        Image.new("RGB", (320, 200), (90, 120, 200)).save(photos / f"{name}.jpg")
    batch = tmp_path / "batch.py"
    batch.write_text(fenced("python", "import sys"), "utf-8")
    assert run(gimp, batch, photos, edited, share=tmp_path) == ""
    assert sorted(path.name for path in edited.iterdir()) == ["one.png", "two.png"]


def test_the_recipes_change_what_is_selected_and_nothing_else(inside):
    found = inside("recipes")
    guide = (DOCS / "guide.md").read_text("utf-8")
    assert re.findall(r"\(recipe-(\w+)\.jpg\)", guide) == list(found)
    for name, steps in found.items():
        for step in steps:
            assert step["outside"] == 0 and step["changed"] > 1000, name
