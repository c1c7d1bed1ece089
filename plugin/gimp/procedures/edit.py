"""The procedures `dimilinks-edit` and `dimilinks-recover`: their arguments and run modes.

A procedure is a function that menus and scripts call by its name in GIMP. `dimilinks-recover` opens
the same window as `dimilinks-edit`, with the list of earlier edits shown.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from gi.repository import Gimp, GLib, GObject

from plugin.errors import CallingError, UserError, unforeseen
from plugin.gimp.translation import _
from plugin.limits import MOST_BLEND, MOST_UNASKED, MOST_VARIATIONS, TIERS

if TYPE_CHECKING:
    from plugin.gimp.planning import Request

NAME = "dimilinks-edit"
RECOVER = "dimilinks-recover"

_STORED = GObject.ParamFlags.READWRITE
# GIMP saves the last arguments of a procedure in the image, and therefore also in the XCF file of
# the image. Users give XCF files to clients, who should not see prompts and paths. The flag 512
# excludes an argument from saving. (3 is READWRITE.)
_NOT_STORED = GObject.ParamFlags(3 | 512)
# By default, GIMP rejects an empty array of layers, even as the default value. The flag 256 turns
# this check off.
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
            _("Put results of earlier edits into the image"),
            _(
                "Opens the window with a list of earlier edits. You can put their results "
                "into the image."
            ),
            name,
        )
    else:
        procedure.set_menu_label(_("_Edit with AI…"))
        procedure.set_documentation(
            _("Edit the selection by describing the change in words"),
            _(
                "Sends the selected part of the layer and a little of its surroundings to an "
                "image-editing service, and puts the result into a new layer or into the "
                "layer itself. Nothing outside the selection changes."
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
        "model", _("Model"), _("The AI model that the service uses"), "gpt-image-2", _STORED
    )
    procedure.add_string_argument(
        "size",
        _("Si_ze"),
        _("auto, a ratio such as 3:2, or a size in pixels such as 1536x1024"),
        "auto",
        _STORED,
    )
    resolution = Gimp.Choice.new()
    resolution.add("auto", 0, _("Automatic"), _("The smallest resolution that loses no detail"))
    for number, tier in enumerate(TIERS, 1):
        resolution.add(tier, number, tier, "")
    procedure.add_choice_argument(
        "resolution",
        _("Resolutio_n"),
        _("The size of the picture that the service makes. It determines the price."),
        resolution,
        "auto",
        _STORED,
    )
    output = Gimp.Choice.new()
    output.add(
        "new-layer",
        0,
        _("New layer"),
        _("Add a layer above the edited one, with the selection as its layer mask"),
    )
    output.add("replace", 1, _("Replace"), _("Change the pixels of the layer itself"))
    procedure.add_choice_argument(
        "output", _("Resul_t"), _("Where to put the result"), output, "new-layer", _STORED
    )
    source = Gimp.Choice.new()
    source.add("layer", 0, _("Layer"), _("The layer alone"))
    source.add("visible", 1, _("Everything visible"), _("The image as you see it"))
    procedure.add_choice_argument(
        "source", _("So_urce"), _("What the service can see"), source, "layer", _STORED
    )
    _add_further_arguments(procedure)


def _add_further_arguments(procedure: Gimp.Procedure) -> None:
    procedure.add_boolean_argument(
        "use-selection",
        _("Onl_y the selection"),
        _("Edit only the selected part. When off, the whole layer or image is edited."),
        True,
        _STORED,
    )
    procedure.add_int_argument(
        "variations",
        _("_Variations"),
        _("The number of results. Each one is charged."),
        1,
        MOST_VARIATIONS,
        1,
        _STORED,
    )
    procedure.add_core_object_array_argument(
        "reference-layers",
        _("Reference layers"),
        _("Layers of open images that the service may look at"),
        Gimp.Drawable.__gtype__,
        _MAY_BE_EMPTY,
    )
    # GIMP has a function to add an array of strings, but its Python API has no name for this type.
    procedure.add_string_array_argument(
        "reference-files",
        _("Reference files"),
        _("Picture files that the service may look at"),
        _NOT_STORED,
    )
    procedure.add_int_argument(
        "blend",
        _("_Blend at the edge"),
        _("Over how many pixels, inwards from the selection's edge, the result fades in"),
        0,
        MOST_BLEND,
        0,
        _STORED,
    )
    procedure.add_int_argument(
        "context",
        _("Conte_xt"),
        _("How many pixels around the selection the service also sees (-1: automatic)"),
        -1,
        4096,
        -1,
        _STORED,
    )
    procedure.add_boolean_argument(
        "repair",
        _("Rep_air drift"),
        _("Move back what the service shifted or zoomed, and match its colours to your picture"),
        True,
        _STORED,
    )
    procedure.add_core_object_array_return_value(
        "layers",
        _("Layers"),
        _("The new result layers, or the layers that were replaced"),
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
    # These modules are imported here because GIMP also loads this module when it starts, only to
    # ask for the arguments of the procedure.
    from plugin.gimp import choices
    from plugin.gimp.canvas.layers import check_open
    from plugin.gimp.edit import edit

    recover = procedure.get_name() == RECOVER
    if recover and run_mode == Gimp.RunMode.NONINTERACTIVE:
        message = _(
            "Results are recovered in a window. Choose Filters ▸ Dimilinks ▸ Recover Results… "
            "in GIMP. Scripts can use “python -m plugin jobs” and “python -m plugin resume” "
            "instead."
        )
        return _error(procedure, Gimp.PDBStatusType.CALLING_ERROR, CallingError(message))
    if run_mode != Gimp.RunMode.NONINTERACTIVE:
        choices.recall(config)
    try:
        if image is None:
            # GIMP 3.0 calls the procedure without an image if the user has just deleted the only
            # selected layer.
            raise CallingError(_("There is no layer to edit. Select one."))
        if recover or run_mode == Gimp.RunMode.INTERACTIVE:
            from plugin.gimp.ui import window

            window.run(procedure, config, image, lambda: _request(config, titled=True), recover)
            # After a success, GIMP saves the arguments in the image. If the image was closed, GIMP
            # would show an error.
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
        # GIMP crashes if a procedure returns layers whose image was closed.
        check_open(image)
    except CallingError as error:
        return _error(procedure, Gimp.PDBStatusType.CALLING_ERROR, error)
    except UserError as error:
        return _error(procedure, Gimp.PDBStatusType.EXECUTION_ERROR, error)
    except Exception as error:
        # Return the exception as an error, because GIMP would not show it to the user otherwise.
        return _error(procedure, Gimp.PDBStatusType.EXECUTION_ERROR, UserError(unforeseen(error)))
    if sentences and run_mode == Gimp.RunMode.NONINTERACTIVE:
        print("\n".join(sentences), file=sys.stderr)
    elif sentences:
        Gimp.message("\n".join(sentences))
    return _success(procedure, layers)


def _means_all(image: Gimp.Image, drawables: Sequence[Gimp.Drawable], request: Request) -> bool:
    """Return whether the user wants all edits that GIMP's command *Repeat* would start.

    Ask the user only if there are more than MOST_UNASKED edits, because each edit is paid for.
    Raises UserError if the question can't be shown because there is no display.
    """
    from plugin.gimp.edit import check

    edits = len(check(image, drawables, request)) * request.variations
    if edits <= MOST_UNASKED:
        return True
    from plugin.gimp.ui import questions

    if not questions.can_be_shown():
        raise UserError(
            _(
                "This would start {count} edits at once, which you have to confirm. Start "
                "them in the window instead: Filters ▸ Dimilinks ▸ Edit with AI…."
            ).format(count=edits)
        )
    return questions.agreed_to_all(None, edits)


def _request(
    config: Gimp.ProcedureConfig, titled: bool = False, files: Sequence[str] = ()
) -> Request:
    from plugin.gimp.planning import Request

    def text(name: str, otherwise: str) -> str:
        # Script-Fu, GIMP's Scheme interpreter, passes None for strings that a script leaves out.
        return config.get_property(name) or otherwise

    output, variations = text("output", "new-layer"), config.get_property("variations")
    if titled and output == "replace":
        # The user has chosen this number for results in new layers, but only one result can replace
        # a layer.
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
    procedure: Gimp.Procedure, status: Gimp.PDBStatusType, error: UserError
) -> Gimp.ValueArray:
    return procedure.new_return_values(
        status, GLib.Error.new_literal(Gimp.PlugIn.error_quark(), str(error), 0)
    )


def _success(procedure: Gimp.Procedure, layers: list[Gimp.Layer]) -> Gimp.ValueArray:
    values = procedure.new_return_values(Gimp.PDBStatusType.SUCCESS, None)
    # GIMP's Python API can't make a GObject value from a list of layers. A config can: the list is
    # stored in one of its arguments, and the value is copied from this argument.
    carrier = procedure.create_config()
    carrier.set_core_object_array("reference-layers", layers)
    value = GObject.Value()
    value.init(GObject.GType.from_name("GimpCoreObjectArray"))
    value.set_boxed(carrier.get_property("reference-layers"))
    values.remove(1)
    values.insert(1, value)
    return values
