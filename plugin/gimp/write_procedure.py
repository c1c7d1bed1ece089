"""The procedure `dimilinks-write`: writes a large result into its layer, in a process of its own.

GIMP kills a process that writes into a layer while the user deletes or locks that layer, or closes
its image. A small result is written too quickly for that. For a large one this process takes the
risk, so that the window, with all that is under way in it, lives on.
"""

from __future__ import annotations

from typing import Any

from gi.repository import Gegl, Gimp, GObject

NAME = "dimilinks-write"


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
    procedure.add_layer_argument("layer", "Layer", "What is written into", False, stored)
    procedure.add_layer_argument("pixels", "Pixels", "What is written", False, stored)
    procedure.add_drawable_argument(
        "inside", "Inside", "Where it is written; everywhere if not given", True, stored
    )
    for axis in ("x", "y"):
        procedure.add_int_argument(axis, axis, "Place in the layer", 0, 1 << 20, 0, stored)
    procedure.add_boolean_argument(
        "colours-only", "Colours only", "Whether the layer's alpha stays", False, stored
    )
    return procedure


def _run(procedure: Gimp.Procedure, config: Gimp.ProcedureConfig, _data: Any) -> Gimp.ValueArray:
    # Loaded here: GIMP, which only asks for the procedure, needn't wait for it.
    from plugin.gimp import pixels

    Gegl.init(None)
    new, inside = config.get_property("pixels"), config.get_property("inside")
    extent = pixels.extent(new)
    target = pixels.Inside(
        extent.moved(config.get_property("x"), config.get_property("y")),
        None if inside is None else inside.get_buffer(),
        extent,
        config.get_property("colours-only"),
    )
    layer = config.get_property("layer")
    if pixels.extent(layer).intersection(target.box) != target.box:
        # It was cut meanwhile.
        return procedure.new_return_values(Gimp.PDBStatusType.EXECUTION_ERROR, None)
    there = pixels.moved(pixels.picture(new), target.box)
    pixels.write(layer, there.buffer, target)
    return procedure.new_return_values(Gimp.PDBStatusType.SUCCESS, None)


def run(
    layer: Gimp.Layer,
    new: Gimp.Layer,
    inside: Gimp.Drawable | None,
    place: tuple[int, int],
    colours_only: bool,
) -> bool:
    """Have another process write `new` into `layer` at `place`; return whether it could.

    `new` and `inside`, the selection over it, are drawables that no image holds.
    """
    called = Gimp.get_pdb().lookup_procedure(NAME)
    config = called.create_config()
    values = {"layer": layer, "pixels": new, "inside": inside, "x": place[0], "y": place[1]}
    for name, value in {**values, "colours-only": colours_only}.items():
        config.set_property(name, value)
    return bool(called.run(config).index(0) == Gimp.PDBStatusType.SUCCESS)
