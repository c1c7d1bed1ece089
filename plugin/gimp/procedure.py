"""The procedures `dimilinks-edit` and `dimilinks-recover`: their arguments and run modes.

`dimilinks-recover` opens the same window, with the list of earlier edits shown.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from gi.repository import Gimp, GLib, GObject

from plugin.gimp.messages import CallingError, EditError, _, unforeseen
from plugin.limits import MOST_BLEND, MOST_UNASKED, MOST_VARIATIONS, TIERS

if TYPE_CHECKING:
    from plugin.gimp.capture import Request

NAME = "dimilinks-edit"
RECOVER = "dimilinks-recover"

_STORED = GObject.ParamFlags.READWRITE
# GIMP saves the last arguments of an image's procedures in a parasite, which is saved with the XCF.
# Such files are given to clients, who should not see prompts and paths.
_NOT_STORED = GObject.ParamFlags(3 | 512)
# GIMP treats an empty array of layers as invalid, even as the default value.
_MAY_BE_EMPTY = GObject.ParamFlags(3 | 256 | 512)


def create(plug_in: Gimp.PlugIn, name: str) -> Gimp.Procedure:
    """Declare the procedure to GIMP."""
    procedure = Gimp.ImageProcedure.new(plug_in, name, Gimp.PDBProcType.PLUGIN, _run, None)
    procedure.set_image_types("*")
    procedure.set_sensitivity_mask(
        Gimp.ProcedureSensitivityMask.DRAWABLE | Gimp.ProcedureSensitivityMask.DRAWABLES
    )
    if name == RECOVER:
        procedure.set_menu_label(_("_Recover Results…"))
        procedure.set_documentation(
            _("Bring results of earlier edits into the image"),
            _("Lists the edits that are kept on this disk, with all that the service delivered."),
            name,
        )
    else:
        procedure.set_menu_label(_("_Edit with AI…"))
        procedure.set_documentation(
            _("Edit what is selected by describing the change"),
            _(
                "Sends the selected part of the layer, with a little of what surrounds it, to an "
                "image-edit service and puts the result into a new layer or into the layer "
                "itself. Nothing outside the selection changes."
            ),
            name,
        )
    procedure.add_menu_path("<Image>/Filters/Dimilinks")
    procedure.set_attribution("Dimilinks", "Dimilinks", "2026")
    _add_arguments(procedure)
    return procedure


def _add_arguments(procedure: Gimp.Procedure) -> None:
    procedure.add_string_argument(
        "prompt", _("_Prompt"), _("What to change, in any language"), "", _NOT_STORED
    )
    procedure.add_string_argument(
        "model", _("Model"), _("The service's model"), "gpt-image-2", _STORED
    )
    procedure.add_string_argument(
        "size", _("Si_ze"), _("auto, a ratio such as 3:2, or WxH in pixels"), "auto", _STORED
    )
    resolution = Gimp.Choice.new()
    resolution.add("auto", 0, _("Automatic"), _("The smallest that loses no detail"))
    for number, tier in enumerate(TIERS, 1):
        resolution.add(tier, number, tier, "")
    procedure.add_choice_argument(
        "resolution",
        _("Resolutio_n"),
        _("How large the service draws, which decides the price"),
        resolution,
        "auto",
        _STORED,
    )
    output = Gimp.Choice.new()
    output.add("new-layer", 0, _("New layer"), _("Above the layer, with the selection as its mask"))
    output.add("replace", 1, _("Replace"), _("Into the layer itself"))
    procedure.add_choice_argument(
        "output", _("Resul_t"), _("Where the result goes"), output, "new-layer", _STORED
    )
    source = Gimp.Choice.new()
    source.add("layer", 0, _("Layer"), _("The layer alone"))
    source.add("visible", 1, _("Everything visible"), _("The image as it is seen"))
    procedure.add_choice_argument(
        "source", _("So_urce"), _("What the service gets to see"), source, "layer", _STORED
    )
    procedure.add_boolean_argument(
        "use-selection",
        _("Onl_y the selection"),
        _("Edit what is selected; off edits the whole layer"),
        True,
        _STORED,
    )
    procedure.add_int_argument(
        "variations",
        _("_Variations"),
        _("How many results, each paid for"),
        1,
        MOST_VARIATIONS,
        1,
        _STORED,
    )
    procedure.add_core_object_array_argument(
        "reference-layers",
        _("Reference layers"),
        _("Layers of any open image to look at"),
        Gimp.Drawable.__gtype__,
        _MAY_BE_EMPTY,
    )
    # An array of strings. GIMP has a function to add it, but no name for its type.
    procedure.add_string_array_argument(
        "reference-files", _("Reference files"), _("Picture files to look at"), _NOT_STORED
    )
    procedure.add_int_argument(
        "blend",
        _("_Blend at the edge"),
        _("Pixels inside the selection's edge over which the result fades in"),
        0,
        MOST_BLEND,
        0,
        _STORED,
    )
    procedure.add_int_argument(
        "context",
        _("Conte_xt"),
        _("Pixels around the selection that the service sees too; -1 for as many as suit it"),
        -1,
        4096,
        -1,
        _STORED,
    )
    procedure.add_boolean_argument(
        "repair",
        _("Rep_air drift"),
        _("Put back in place what the service shifted or zoomed, in the colours of the picture"),
        True,
        _STORED,
    )
    procedure.add_core_object_array_return_value(
        "layers",
        _("Layers"),
        _("The result layers, or the layers replaced"),
        Gimp.Layer.__gtype__,
        _STORED,
    )


def _run(
    procedure: Gimp.Procedure,
    run_mode: Gimp.RunMode,
    image: Gimp.Image | None,
    drawables: list[Gimp.Drawable],
    config: Gimp.ProcedureConfig,
    _data: Any,
) -> Gimp.ValueArray:
    # Imported here because GIMP loads this module at its start, only to ask for the procedure.
    from plugin.gimp import choices
    from plugin.gimp.edit import edit
    from plugin.gimp.layers import check_open

    recover = procedure.get_name() == RECOVER
    if recover and run_mode == Gimp.RunMode.NONINTERACTIVE:
        message = _(
            "Recovering is done in a window: open it with Filters ▸ Dimilinks ▸ Recover Results…. "
            "Scripts have “python -m plugin jobs” and “resume” instead."
        )
        return _error(procedure, Gimp.PDBStatusType.CALLING_ERROR, CallingError(message))
    if run_mode != Gimp.RunMode.NONINTERACTIVE:
        choices.recall(config)
    try:
        if image is None:
            # GIMP 3.0 also calls the procedure right after the only selected layer was deleted.
            raise CallingError(_("There is no layer to edit: select one."))
        if recover or run_mode == Gimp.RunMode.INTERACTIVE:
            from plugin.gimp.ui import window

            window.run(procedure, config, image, lambda: _request(config, titled=True), recover)
            # After a success, GIMP saves the arguments in the image, and complains if it was
            # closed.
            there = image.is_valid()
            status = Gimp.PDBStatusType.SUCCESS if there else Gimp.PDBStatusType.CANCEL
            return procedure.new_return_values(status, None)
        if run_mode == Gimp.RunMode.WITH_LAST_VALS:
            request = _request(config, titled=True, files=choices.reference_files())
            with contextlib.ExitStack() as pressing:
                anew = pressing.enter_context(choices.one_press())
                if not anew or not _means_all(image, drawables, request):
                    return procedure.new_return_values(Gimp.PDBStatusType.CANCEL, None)
                layers, sentences = edit(image, drawables, request, pressing.close)
        else:
            layers, sentences = edit(image, drawables, _request(config))
        # GIMP crashes if it gets layers whose image was closed.
        check_open(image)
    except CallingError as error:
        return _error(procedure, Gimp.PDBStatusType.CALLING_ERROR, error)
    except EditError as error:
        return _error(procedure, Gimp.PDBStatusType.EXECUTION_ERROR, error)
    except Exception as error:
        # GIMP would not show an exception at all.
        return _error(procedure, Gimp.PDBStatusType.EXECUTION_ERROR, EditError(unforeseen(error)))
    if sentences and run_mode == Gimp.RunMode.NONINTERACTIVE:
        print("\n".join(sentences), file=sys.stderr)
    elif sentences:
        Gimp.message("\n".join(sentences))
    return _success(procedure, layers)


def _means_all(image: Gimp.Image, drawables: Sequence[Gimp.Drawable], request: Request) -> bool:
    """Return whether *Repeat* may start its edits. Ask the user first if there are many.

    Raises EditError if the user would have to be asked and there is no display.
    """
    from plugin.gimp.edit import check

    edits = len(check(image, drawables, request)) * request.variations
    if edits <= MOST_UNASKED:
        return True
    from plugin.gimp.ui import messages

    if not messages.can_be_shown():
        raise EditError(
            _("These are {count} edits at once: confirm them in the window.").format(count=edits)
        )
    return messages.agreed_to_all(None, edits)


def _request(
    config: Gimp.ProcedureConfig, titled: bool = False, files: Sequence[str] = ()
) -> Request:
    from plugin.gimp.capture import Request

    def text(name: str, otherwise: str) -> str:
        # Script-Fu passes None for strings that were left out.
        return config.get_property(name) or otherwise

    output, variations = text("output", "new-layer"), config.get_property("variations")
    if titled and output == "replace":
        # The saved number was for new layers, but only one result can replace a layer.
        variations = 1
    return Request(
        prompt=text("prompt", "").strip(),
        model=text("model", "gpt-image-2"),
        size=text("size", "auto"),
        resolution=text("resolution", "auto"),
        output=output,
        source=text("source", "layer"),
        use_selection=config.get_property("use-selection"),
        variations=variations,
        reference_layers=config.get_core_object_array("reference-layers") or [],
        reference_files=config.get_property("reference-files") or files,
        blend=config.get_property("blend"),
        context=config.get_property("context"),
        repair=config.get_property("repair"),
        titled=titled,
    )


def _error(
    procedure: Gimp.Procedure, status: Gimp.PDBStatusType, error: EditError
) -> Gimp.ValueArray:
    return procedure.new_return_values(
        status, GLib.Error.new_literal(Gimp.PlugIn.error_quark(), str(error), 0)
    )


def _success(procedure: Gimp.Procedure, layers: list[Gimp.Layer]) -> Gimp.ValueArray:
    values = procedure.new_return_values(Gimp.PDBStatusType.SUCCESS, None)
    # Python has no function that makes a value from an array of layers, but a config can make one
    # from a list.
    carrier = procedure.create_config()
    carrier.set_core_object_array("reference-layers", layers)
    value = GObject.Value()
    value.init(GObject.GType.from_name("GimpCoreObjectArray"))
    value.set_boxed(carrier.get_property("reference-layers"))
    values.remove(1)
    values.insert(1, value)
    return values
