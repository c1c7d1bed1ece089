"""The window that asks for the prompt and the choices."""

from __future__ import annotations

from collections.abc import Callable

import gi

gi.require_version("Gdk", "3.0")
gi.require_version("GimpUi", "3.0")
gi.require_version("Gtk", "3.0")
from gi.repository import Gdk, Gimp, GimpUi, Gtk  # noqa: E402

from plugin.gimp.messages import EditError, NotReplaceable, _  # noqa: E402

_ENTER = (Gdk.KEY_Return, Gdk.KEY_KP_Enter, Gdk.KEY_ISO_Enter)


_UNASKED = 4
"""More edits than these at once are confirmed: each is paid for."""


def ask(
    procedure: Gimp.Procedure,
    config: Gimp.ProcedureConfig,
    layers: int,
    check: Callable[[], None],
) -> bool:
    """Show the window, let it change `config`, and return whether the user wants the edit.

    `layers` is how many are selected: each has its own edit. `check` looks for reasons not to
    begin: its EditError is told while the window stays, for NotReplaceable a new layer is offered.
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
            "context",
            "repair",
        ]
    )
    window.get_content_area().set_spacing(6)
    # GIMP focuses the button, which the first space of a prompt would press.
    text.grab_focus()
    try:
        while window.run():
            try:
                check()
            except NotReplaceable as error:
                if not _agreed(window, str(error), _("Put It into a _New Layer")):
                    continue
                config.set_property("output", "new-layer")
            except EditError as error:
                _tell(window, str(error))
                continue
            pictures = 1 if config.get_property("source") == "visible" else layers
            edits = pictures * config.get_property("variations")
            if edits <= _UNASKED or _agreed(
                window,
                _("Start {count} edits at once?").format(count=edits),
                _("_Edit"),
                _("One for each layer and variation, and each is paid for."),
            ):
                return True
        return False
    finally:
        window.destroy()


def _agreed(window: Gtk.Window, question: str, action: str, explanation: str = "") -> bool:
    """Ask before something that the user may not have meant."""
    asking = _message(window, Gtk.MessageType.QUESTION, question, explanation)
    asking.add_button(_("_Cancel"), Gtk.ResponseType.CANCEL)
    asking.add_button(action, Gtk.ResponseType.OK)
    asking.set_default_response(Gtk.ResponseType.CANCEL)
    return _answer(asking) == Gtk.ResponseType.OK


def _tell(window: Gtk.Window, sentence: str) -> None:
    telling = _message(window, Gtk.MessageType.ERROR, sentence, "")
    telling.add_button(_("_OK"), Gtk.ResponseType.OK)
    _answer(telling)


def _message(
    window: Gtk.Window, kind: Gtk.MessageType, text: str, explanation: str
) -> Gtk.MessageDialog:
    return Gtk.MessageDialog(
        transient_for=window,
        modal=True,
        message_type=kind,
        text=text,
        secondary_text=explanation or None,
    )


def _answer(message: Gtk.MessageDialog) -> int:
    try:
        return int(message.run())
    finally:
        message.destroy()


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
