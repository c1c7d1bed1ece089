"""What comes up over a window: questions and menus."""

from __future__ import annotations

from gi.repository import Gdk, Gtk

from plugin.gimp.messages import _


def agreed(window: Gtk.Window, question: str, action: str, explanation: str = "") -> bool:
    """Ask before something that the user may not have meant."""
    asking = Gtk.MessageDialog(
        transient_for=window,
        modal=True,
        message_type=Gtk.MessageType.QUESTION,
        text=question,
        secondary_text=explanation or None,
    )
    asking.add_button(_("_Cancel"), Gtk.ResponseType.CANCEL)
    asking.add_button(action, Gtk.ResponseType.OK)
    asking.set_default_response(Gtk.ResponseType.CANCEL)
    try:
        return bool(asking.run() == Gtk.ResponseType.OK)
    finally:
        asking.destroy()


def pop_up(menu: Gtk.Menu, button: Gtk.Button) -> None:
    """Show a menu that was made just now below the button that asked for it."""
    menu.show_all()
    menu.attach_to_widget(button)
    menu.connect("selection-done", lambda _menu: menu.destroy())
    menu.popup_at_widget(
        button, Gdk.Gravity.SOUTH_WEST, Gdk.Gravity.NORTH_WEST, Gtk.get_current_event()
    )
