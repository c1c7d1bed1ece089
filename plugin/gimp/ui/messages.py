"""Questions and menus that open over a window."""

from __future__ import annotations

from collections.abc import Callable

from gi.repository import GimpUi, Gtk

from plugin.gimp.messages import _, plural
from plugin.limits import MOST_UNASKED


def agreed(window: Gtk.Window | None, question: str, action: str, explanation: str = "") -> bool:
    """Ask the user to confirm something that may not be intended. Return whether they agree."""
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


def can_be_shown() -> bool:
    """Prepare GTK for windows without a procedure's dialog. Return False if there is no display."""
    if not Gtk.init_check(None)[0]:
        return False
    GimpUi.init("dimilinks-edit")
    return True


def agreed_to_all(window: Gtk.Window | None, edits: int) -> bool:
    """Ask the user to confirm if many edits would start at once. Return whether they agree."""
    if edits <= MOST_UNASKED:
        return True
    return agreed(
        window,
        plural("Start {count} edit?", "Start {count} edits at once?", edits).format(count=edits),
        _("_Edit"),
        _("One for each layer and variation, and each is paid for."),
    )


class FreshMenuButton(Gtk.MenuButton):
    """A button with a menu that `fill` fills whenever it opens.

    Assistive technology finds its items as it does those of any menu button.
    """

    def __init__(self, label: str, fill: Callable[[Gtk.Menu], None]) -> None:
        super().__init__(label=label, use_underline=True)
        self._fill = fill
        self.set_popup(Gtk.Menu())

    def do_toggled(self) -> None:
        """Fill the menu before GTK shows it."""
        if self.get_active():
            menu = self.get_popup()
            for item in menu.get_children():
                item.destroy()
            self._fill(menu)
            menu.show_all()
        Gtk.MenuButton.do_toggled(self)
