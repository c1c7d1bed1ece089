#!/usr/bin/env python3
"""A plug-in that works as most do: GIMP saves the image and a mask, and loads the result.

`tests/bench/speed` compares Dimilinks with it. It talks to no service, and loads the image that it
has saved.
"""

import os
import sys
from pathlib import Path

import gi

gi.require_version("Gimp", "3.0")
gi.require_version("Gegl", "0.4")
from gi.repository import Gegl, Gimp, Gio  # noqa: E402

NAME = "plain-edit"


class Plain(Gimp.PlugIn):
    def do_query_procedures(self):
        return [NAME]

    def do_create_procedure(self, name):
        procedure = Gimp.ImageProcedure.new(self, name, Gimp.PDBProcType.PLUGIN, run, None)
        procedure.set_image_types("*")
        return procedure


def run(procedure, _run_mode, image, _drawables, _config, _data):
    """Save the image and its selection as `all.png` and `mask.png`, and load the image again."""
    Gegl.init(None)
    folder = Path(os.environ["TMPDIR"])
    picture, mask = (Gio.File.new_for_path(str(folder / f"{name}.png")) for name in ("all", "mask"))
    Gimp.file_save(Gimp.RunMode.NONINTERACTIVE, image, picture, None)
    copy = image.duplicate()
    shown = copy.flatten()
    Gimp.context_set_foreground(Gegl.Color.new("white"))
    Gimp.context_set_background(Gegl.Color.new("black"))
    shown.edit_fill(Gimp.FillType.FOREGROUND)
    Gimp.Selection.invert(copy)
    shown.edit_fill(Gimp.FillType.BACKGROUND)
    Gimp.file_save(Gimp.RunMode.NONINTERACTIVE, copy, mask, None)
    copy.delete()
    image.insert_layer(Gimp.file_load_layer(Gimp.RunMode.NONINTERACTIVE, image, picture), None, 0)
    return procedure.new_return_values(Gimp.PDBStatusType.SUCCESS, None)


Gimp.main(Plain.__gtype__, sys.argv)
