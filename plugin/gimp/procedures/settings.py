"""The procedure `dimilinks-settings`, which opens the settings window."""

from __future__ import annotations

from typing import Any

from gi.repository import Gimp, GLib, GObject

from plugin.gimp.translation import _

NAME = "dimilinks-settings"


def create(plug_in: Gimp.PlugIn, name: str) -> Gimp.Procedure:
    """Declare the procedure to GIMP."""
    procedure = Gimp.Procedure.new(plug_in, name, Gimp.PDBProcType.PLUGIN, _run, None)
    procedure.set_menu_label(_("_Settings…"))
    procedure.add_menu_path("<Image>/Filters/Dimilinks")
    procedure.set_documentation(
        _("Set up the service that makes the edits"),
        _(
            "The API key, the service's address, the largest size of results, and how long "
            "edits are kept."
        ),
        name,
    )
    procedure.set_attribution("Dimilinks", "Dimilinks", "2026")
    procedure.add_enum_argument(
        "run-mode",
        _("Run mode"),
        _("Whether a user or a script has called the procedure"),
        Gimp.RunMode.__gtype__,
        Gimp.RunMode.INTERACTIVE,
        GObject.ParamFlags.READWRITE,
    )
    return procedure


def _run(procedure: Gimp.Procedure, config: Gimp.ProcedureConfig, _data: Any) -> Gimp.ValueArray:
    if config.get_property("run-mode") == Gimp.RunMode.NONINTERACTIVE:
        message = _(
            "Settings are changed in a window. Choose Filters ▸ Dimilinks ▸ Settings… in "
            "GIMP. Scripts can set DIMILINKS_API_KEY and DIMILINKS_BASE_URL instead."
        )
        return procedure.new_return_values(
            Gimp.PDBStatusType.CALLING_ERROR,
            GLib.Error.new_literal(Gimp.PlugIn.error_quark(), message, 0),
        )
    # This module is imported here because it needs a display.
    from plugin.gimp.ui import settings_dialog

    settings_dialog.show(None)
    return procedure.new_return_values(Gimp.PDBStatusType.SUCCESS, None)
