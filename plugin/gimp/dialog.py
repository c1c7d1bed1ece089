"""The window that asks for the prompt and the choices."""

from __future__ import annotations

import gi

gi.require_version("Gdk", "3.0")
gi.require_version("GimpUi", "3.0")
gi.require_version("Gtk", "3.0")
from gi.repository import Gdk, Gimp, GimpUi, Gtk  # noqa: E402

from plugin.gimp.messages import _  # noqa: E402

_ENTER = (Gdk.KEY_Return, Gdk.KEY_KP_Enter, Gdk.KEY_ISO_Enter)


_UNASKED = 4
"""More edits than these at once are confirmed: each is paid for."""


def ask(procedure: Gimp.Procedure, config: Gimp.ProcedureConfig, layers: int) -> bool:
    """Show the window, let it change `config`, and return whether the user wants the edit.

    `layers` is how many are selected: each has its own edit.
    """
    GimpUi.init(procedure.get_name())
    window = GimpUi.ProcedureDialog.new(procedure, config, _("Edit with AI"))
    window.set_ok_label(_("_Edit"))
    # There is no page of GIMP's manual behind it.
    window.get_widget_for_response(Gtk.ResponseType.HELP).hide()
    text = _prompt(window)
    for choice in ("output", "source", "resolution"):
        # GIMP 3.2 alone would take radio buttons for the short ones.
        window.get_widget(choice, Gtk.ComboBox.__gtype__)
    window.fill(
        [
            "prompt-label",
            "prompt-scrolled",
            "use-selection",
            "output",
            "source",
            "resolution",
            "size",
            "variations",
            "blend",
            "repair",
        ]
    )
    window.get_content_area().set_spacing(6)
    # GIMP focuses the button, which the first space of a prompt would press.
    text.grab_focus()
    try:
        while window.run():
            pictures = 1 if config.get_property("source") == "visible" else layers
            edits = pictures * config.get_property("variations")
            if edits <= _UNASKED or _confirmed(window, edits):
                return True
        return False
    finally:
        window.destroy()


def _confirmed(window: Gtk.Window, edits: int) -> bool:
    question = Gtk.MessageDialog(
        transient_for=window,
        modal=True,
        message_type=Gtk.MessageType.QUESTION,
        text=_("Start {count} edits at once?").format(count=edits),
        secondary_text=_("One for each layer and variation, and each is paid for."),
    )
    question.add_button(_("_Cancel"), Gtk.ResponseType.CANCEL)
    question.add_button(_("_Edit"), Gtk.ResponseType.OK)
    question.set_default_response(Gtk.ResponseType.CANCEL)
    try:
        return question.run() == Gtk.ResponseType.OK
    finally:
        question.destroy()


def _prompt(window: GimpUi.ProcedureDialog) -> Gtk.TextView:
    """Make the field for the prompt, with its label and in a frame that scrolls."""
    text = window.get_widget("prompt", Gtk.TextView.__gtype__)
    text.set_wrap_mode(Gtk.WrapMode.WORD_CHAR)
    # Tab goes on to the next field: a prompt has no use for it.
    text.set_accepts_tab(False)
    text.get_accessible().set_name(_("Prompt"))
    text.connect("key-press-event", _start_by_ctrl_enter, window)
    frame = window.fill_scrolled_window("prompt-scrolled", "prompt")
    frame.set_shadow_type(Gtk.ShadowType.IN)
    frame.set_policy(Gtk.PolicyType.NEVER, Gtk.PolicyType.AUTOMATIC)
    frame.set_size_request(420, 96)
    label = window.get_label("prompt-label", _("_Prompt"), False, True)
    label.set_mnemonic_widget(text)
    label.set_xalign(0)
    return text


def _start_by_ctrl_enter(_text: Gtk.TextView, event: Gdk.EventKey, window: Gtk.Dialog) -> bool:
    if event.keyval in _ENTER and event.state & Gdk.ModifierType.CONTROL_MASK:
        window.response(Gtk.ResponseType.OK)
        return True
    return False
