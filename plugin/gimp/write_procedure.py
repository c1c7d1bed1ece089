"""The procedure `dimilinks-write`: writes a large result into its layer, in a process of its own.

GIMP kills a process that writes into a layer while the user deletes or locks that layer, or closes
its image. A small result is written too quickly for that, and its image kept. For a large one this
process takes the risk, so that the window, with all that is under way in it, lives on.
"""

from __future__ import annotations

import enum
import os
from typing import Any

from gi.repository import Gegl, Gimp, GLib, GObject

from plugin.region import Box

NAME = "dimilinks-write"


class Written(enum.Enum):
    """What became of a result."""

    WHOLE = enum.auto()
    NOTHING = enum.auto()
    """The layer is not what the result was made for, and has all its pixels."""
    PART = enum.auto()
    """The layer was changed or deleted meanwhile."""


def create(plug_in: Gimp.PlugIn, name: str) -> Gimp.Procedure:
    """Declare the procedure to GIMP."""
    procedure = Gimp.Procedure.new(plug_in, name, Gimp.PDBProcType.PLUGIN, _run, None)
    procedure.set_documentation(
        "Write a result into its layer",
        "Part of dimilinks-edit, which calls it for large results. No use for anything else.",
        name,
    )
    procedure.set_attribution("Dimilinks", "Dimilinks", "2026")
    stored = GObject.ParamFlags.READWRITE
    numbers = {
        "layer": "The number of what is written into",
        "pixels": "Of what is written",
        "inside": "Of the mask of what is written; 0 for all",
        **dict.fromkeys(("x", "y", "width", "height"), "Part of the layer"),
    }
    for number, words in numbers.items():
        procedure.add_int_argument(number, number, words, 0, GLib.MAXINT, 0, stored)
    procedure.add_boolean_argument(
        "colours-only", "Colours only", "Whether the layer's alpha stays", False, stored
    )
    return procedure


def _run(procedure: Gimp.Procedure, config: Gimp.ProcedureConfig, _data: Any) -> Gimp.ValueArray:
    # Loaded here: GIMP, which only asks for the procedure, needn't wait for it.
    from plugin.gimp import pixels

    # Buffers need none of GEGL's operations, which take half of the time to start.
    os.environ["GEGL_PATH"] = os.devnull
    Gegl.init(None)
    names = ("layer", "pixels", "inside") if config.get_property("inside") else ("layer", "pixels")
    given = [Gimp.Drawable.get_by_id(config.get_property(name)) for name in names]
    status = Gimp.PDBStatusType
    if None in given or not pixels.is_alike(*given[:2]):
        # It was cut or converted meanwhile. Without its mask nothing may be written at all.
        return procedure.new_return_values(status.CANCEL, None)
    layer, new, *masks = given
    box = Box(*(config.get_property(side) for side in ("x", "y", "width", "height")))
    selection = masks[0].get_buffer() if masks else None
    part = pixels.Inside(box, selection, box, config.get_property("colours-only"))
    whole = pixels.write(layer, new.get_buffer(), part, new)
    return procedure.new_return_values(status.SUCCESS if whole else status.EXECUTION_ERROR, None)


def run(
    layer: Gimp.Layer,
    new: Gimp.Layer,
    inside: Gimp.Drawable | None,
    box: Box,
    colours_only: bool,
) -> Written:
    """Have another process write `box` of `new` into `layer`.

    `new` is a copy of the layer that has other pixels, `inside` a mask of it: what is selected.
    """
    called = Gimp.get_pdb().lookup_procedure(NAME)
    config = called.create_config()
    # As numbers: GIMP would hold on to the layers themselves until the procedure has ended, and
    # crash after that if their image was closed.
    values = {"layer": layer.get_id(), "pixels": new.get_id(), "colours-only": colours_only}
    values["inside"] = 0 if inside is None else inside.get_id()
    for name, value in {**values, **vars(box)}.items():
        config.set_property(name, value)
    status = called.run(config).index(0)
    if status == Gimp.PDBStatusType.SUCCESS:
        return Written.WHOLE
    # A process that was killed says nothing.
    return Written.NOTHING if status == Gimp.PDBStatusType.CANCEL else Written.PART
