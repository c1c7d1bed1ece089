"""The procedure `dimilinks-write`, which writes a result into an existing layer.

GIMP runs each procedure in a process of its own, and kills a process that writes to a layer while
the user deletes or locks this layer, or closes the image. With this procedure, GIMP kills only the
process that writes. The process of the window continues, with all edits that run in it.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from gi.repository import Gegl, Gimp, GLib, GObject

from plugin.region import Box

if TYPE_CHECKING:
    from plugin.gimp.canvas.writing import Written

NAME = "dimilinks-write"
_STATUSES = {
    "WHOLE": Gimp.PDBStatusType.SUCCESS,
    "NOTHING": Gimp.PDBStatusType.CANCEL,
    "PART": Gimp.PDBStatusType.EXECUTION_ERROR,
}
"""The status that the procedure returns, by the name of the member of `Written`."""


def create(plug_in: Gimp.PlugIn, name: str) -> Gimp.Procedure:
    """Declare the procedure to GIMP."""
    procedure = Gimp.Procedure.new(plug_in, name, Gimp.PDBProcType.PLUGIN, _run, None)
    procedure.set_documentation(
        "Write a result into its layer",
        "The procedure dimilinks-edit calls this procedure. It is not meant for other scripts.",
        name,
    )
    procedure.set_attribution("Dimilinks", "Dimilinks", "2026")
    stored = GObject.ParamFlags.READWRITE
    numbers = {
        "layer": "The ID of the layer to write to",
        "pixels": "The ID of a copy of the layer that contains the result",
        "before": "The ID of a copy of the layer that contains the original pixels",
        "inside": "The ID of a mask that contains the selection, or 0 to write all of the box",
        "x": "The left edge of the box to write, in pixels of the layer",
        "y": "The top edge of the box to write, in pixels of the layer",
        "width": "The width of the box to write, in pixels",
        "height": "The height of the box to write, in pixels",
    }
    for number, words in numbers.items():
        procedure.add_int_argument(number, number, words, 0, GLib.MAXINT, 0, stored)
    procedure.add_boolean_argument(
        "colours-only", "Colours only", "Whether the alpha of the layer stays", False, stored
    )
    procedure.add_boolean_argument(
        "back", "Back", "Whether to restore the original pixels", False, stored
    )
    procedure.add_string_argument(
        "made-for",
        "Made for",
        "The hash of the colour profile that the pixels were converted to",
        "",
        stored,
    )
    return procedure


def _run(procedure: Gimp.Procedure, config: Gimp.ProcedureConfig, _data: Any) -> Gimp.ValueArray:
    # These modules are imported here because GIMP also loads this module when it only asks for the
    # arguments of the procedure.
    from plugin.gimp.canvas.layers import is_locked
    from plugin.gimp.canvas.writing import Inside, Written, take_back, write

    # Prevent GEGL, GIMP's image processor, from loading its operations. This would take half of the
    # starting time, and reading and writing pixels needs no operations.
    os.environ["GEGL_PATH"] = os.devnull
    Gegl.init(None)
    names = ["layer", "pixels", "before"] + ["inside"] * (config.get_property("inside") > 0)
    given = [Gimp.Drawable.get_by_id(config.get_property(name)) for name in names]
    box = Box(*(config.get_property(side) for side in ("x", "y", "width", "height")))
    made_for = config.get_property("made-for")
    if None in given or is_locked(given[0]):
        # The user has deleted or locked the layer, or one of the other drawables doesn't exist any
        # more. Without the mask, pixels outside the selection would change.
        written = Written.NOTHING
    else:
        layer, new, before, *masks = given
        selection = masks[0].get_buffer() if masks else None
        part = Inside(box, selection, box, config.get_property("colours-only"))
        if config.get_property("back"):
            written = take_back(layer, before, part, made_for)
        else:
            written = write(layer, new.get_buffer(), part, before, made_for)
    return procedure.new_return_values(_STATUSES[written.name], None)


def run(
    layer: Gimp.Layer,
    new: Gimp.Layer,
    before: Gimp.Layer,
    inside: Gimp.Drawable | None,
    box: Box,
    colours_only: bool,
    made_for: str,
    back: bool,
) -> Written:
    """Call the procedure, which writes `box` of `new` to `layer` in another process.

    If `back` is true, the procedure restores the original pixels from `before` instead. `new` and
    `before` are copies of the layer: `new` contains the result, `before` the original pixels.
    `inside` is a mask of the layer's size that contains the selection, or None if all of `box`
    changes. If `colours_only` is true, the alpha of the layer stays. `made_for` is the hash of the
    colour profile for which `new` was made.
    """
    from plugin.gimp.canvas.writing import Written

    called = Gimp.get_pdb().lookup_procedure(NAME)
    config = called.create_config()
    # Pass the ids of the layers, not the layers. GIMP would keep references to the layers until the
    # procedure ends, and then crash if their image was closed.
    drawables = {"layer": layer, "pixels": new, "before": before, "inside": inside}
    values: dict[str, object] = {name: each.get_id() for name, each in drawables.items() if each}
    values |= {"colours-only": colours_only, "made-for": made_for, "back": back, **vars(box)}
    for name, value in values.items():
        config.set_property(name, value)
    status = called.run(config).index(0)
    # If the process was killed, the status comes from GIMP, and it is unknown how much of the
    # result was written.
    return next((each for each in Written if _STATUSES[each.name] == status), Written.PART)
