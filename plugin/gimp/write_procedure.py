"""The procedure `dimilinks-write`: writes a result into its layer, in a process of its own.

GIMP kills a process that writes into a layer while the user deletes or locks that layer, or closes
its image. This process takes the risk, so that the window, with all that is under way in it, lives
on.
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


_STATUSES = {
    Written.WHOLE: Gimp.PDBStatusType.SUCCESS,
    Written.NOTHING: Gimp.PDBStatusType.CANCEL,
    Written.PART: Gimp.PDBStatusType.EXECUTION_ERROR,
}


def create(plug_in: Gimp.PlugIn, name: str) -> Gimp.Procedure:
    """Declare the procedure to GIMP."""
    procedure = Gimp.Procedure.new(plug_in, name, Gimp.PDBProcType.PLUGIN, _run, None)
    procedure.set_documentation(
        "Write a result into its layer",
        "Part of dimilinks-edit, which calls it. No use for anything else.",
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
    procedure.add_boolean_argument(
        "back", "Back", "Whether the pixels are those from before", False, stored
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
    if None in given:
        # It was deleted meanwhile. Without its mask nothing may be written at all.
        return procedure.new_return_values(_STATUSES[Written.NOTHING], None)
    layer, source, *masks = given
    box = Box(*(config.get_property(side) for side in ("x", "y", "width", "height")))
    selection = masks[0].get_buffer() if masks else None
    part = pixels.Inside(box, selection, box, config.get_property("colours-only"))
    if config.get_property("back"):
        pixels.put_back(layer, source.get_buffer(), part)
        written = Written.WHOLE
    elif not pixels.is_alike(layer, source):
        written = Written.NOTHING
    else:
        whole = pixels.write(layer, source.get_buffer(), part, source)
        written = Written.WHOLE if whole else Written.PART
    return procedure.new_return_values(_STATUSES[written], None)


def run(
    layer: Gimp.Layer,
    source: Gimp.Layer,
    inside: Gimp.Drawable | None,
    box: Box,
    colours_only: bool,
    back: bool,
) -> Written:
    """Have another process write `box` of `source` into `layer`, of which it is a copy.

    `inside` is a mask of it: what is selected. With `back` the copy has the pixels that the layer
    had before it was converted while it was written.
    """
    called = Gimp.get_pdb().lookup_procedure(NAME)
    config = called.create_config()
    # As numbers: GIMP would hold on to the layers themselves until the procedure has ended, and
    # crash after that if their image was closed.
    values = {"layer": layer.get_id(), "pixels": source.get_id()}
    values["inside"] = 0 if inside is None else inside.get_id()
    values |= {"colours-only": colours_only, "back": back}
    for name, value in {**values, **vars(box)}.items():
        config.set_property(name, value)
    status = called.run(config).index(0)
    # A process that was killed says nothing.
    return next((each for each in Written if _STATUSES[each] == status), Written.PART)
