"""Questions that the user must answer, and a button whose menu is filled when it opens."""

from __future__ import annotations

from collections.abc import Callable

from gi.repository import GimpUi, Gtk

from plugin.gimp.translation import _, plural
from plugin.limits import MOST_UNASKED


def agreed(window: Gtk.Window | None, question: str, action: str, explanation: str = "") -> bool:
    """Ask the user a question, and return whether the user agrees.

    `action` is the label of the button with which the user agrees. Any other way of closing the
    dialog means no. `explanation` is shown in small letters below `question`. `window` is the
    window over which the dialog appears, or None.
    """
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
    """Prepare GTK, so that a question can be shown although the plug-in has no window yet.

    Return False if there is no display.
    """
    if not Gtk.init_check(None)[0]:
        return False
    GimpUi.init("dimilinks-edit")
    return True


def agreed_to_all(window: Gtk.Window | None, edits: int) -> bool:
    """Return whether `edits` edits may start at once.

    The user must agree if there are more than MOST_UNASKED, because each edit is paid for.
    """
    if edits <= MOST_UNASKED:
        return True
    return agreed(
        window,
        plural("Start {count} edit?", "Start {count} edits at once?", edits).format(count=edits),
        _("_Edit"),
        _("Each layer and each variation is a separate edit, and the service charges for each."),
    )


class FreshMenuButton(Gtk.MenuButton):
    """A button with a menu. `fill` adds the items to the menu each time the menu opens.

    Screen readers find the items, as in any other menu button.
    """

    def __init__(self, label: str, fill: Callable[[Gtk.Menu], None]) -> None:
        super().__init__(label=label, use_underline=True)
        self._fill = fill
        self.set_popup(Gtk.Menu())

    def do_toggled(self) -> None:
        """Replace the items of the menu before GTK shows the menu."""
        if self.get_active():
            menu = self.get_popup()
            for item in menu.get_children():
                item.destroy()
            self._fill(menu)
            menu.show_all()
        Gtk.MenuButton.do_toggled(self)
