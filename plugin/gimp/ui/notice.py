"""The message at the top of the window, with buttons by which the user can react to it."""

from __future__ import annotations

from collections.abc import Callable

from gi.repository import GLib, Gtk, Pango


class Notice(Gtk.Box):
    """The widget that shows the message, or nothing if there is no message.

    `changed` is called whenever a message is shown or removed, because the height of the widget
    then changes.
    """

    def __init__(self, changed: Callable[[], None]) -> None:
        super().__init__(orientation=Gtk.Orientation.VERTICAL)
        self._changed = changed

    def clear(self) -> None:
        """Remove the message."""
        for child in self.get_children():
            child.destroy()
        self._changed()

    def tell(
        self,
        sentence: str,
        kind: Gtk.MessageType = Gtk.MessageType.ERROR,
        buttons: tuple[tuple[str, Callable[[], None]], ...] = (),
    ) -> Gtk.Label:
        """Show `sentence` instead of the former message, and return the label that shows it.

        Each of the `buttons` is a tuple of a label and the function that the button calls.
        """
        self.clear()
        bar = Gtk.InfoBar(message_type=kind, show_close_button=not buttons)
        bar.connect("response", lambda *_: self.clear())
        label = Gtk.Label(label=sentence, wrap=True, xalign=0, hexpand=True, max_width_chars=40)
        label.set_line_wrap_mode(Pango.WrapMode.WORD_CHAR)
        # Put the buttons below the message. Beside the message, they would make the window wider.
        below = Gtk.Box(spacing=6)
        for words, action in buttons:
            button = Gtk.Button(label=words, use_underline=True)
            button.connect("clicked", self._answered, action)
            below.pack_start(button, False, False, 0)
        box = Gtk.Box(orientation=Gtk.Orientation.VERTICAL, spacing=6)
        box.pack_start(label, False, False, 0)
        if buttons:
            box.pack_start(below, False, False, 0)
        for each in (box, below, label):
            _show_through(each)
        bar.get_content_area().pack_start(box, True, True, 0)
        bar.show_all()
        self.add(bar)
        self._changed()
        return label

    def _answered(self, _button: Gtk.Button, action: Callable[[], None]) -> None:
        self.clear()
        # Call `action` after the signal of the button has ended, because `action` can open a
        # dialog. A dialog inside the signal would keep screen readers waiting.
        GLib.idle_add(action)


def _show_through(widget: Gtk.Widget) -> None:
    """Make the background of a widget transparent, because GIMP's theme gives it another colour."""
    style = Gtk.CssProvider()
    style.load_from_data(b"* { background-color: transparent; }")
    widget.get_style_context().add_provider(style, Gtk.STYLE_PROVIDER_PRIORITY_USER)
