"""The widgets that the settings window is made of: frames, rows of labels and fields, notes."""

from __future__ import annotations

from gi.repository import Gdk, GimpUi, Gtk, Pango

GAP = 6
"""The space between two widgets, in pixels."""
_TEXT_WIDTH = 52
"""The maximum width of explanations, in characters."""
_LEAST_WIDTH = 30
"""The minimum width of explanations, in characters. GTK computes their height for this width.

Without a minimum, GTK would reserve space for many short lines.
"""
_FRAME = 140
"""The height of the window's title, buttons and borders, in pixels."""


def scrolled(page: Gtk.Widget) -> Gtk.Widget:
    """Return a widget that contains `page` and scrolls it if it is higher than the screen."""
    frame = Gtk.ScrolledWindow(
        hscrollbar_policy=Gtk.PolicyType.NEVER, propagate_natural_height=True
    )
    frame.add(page)
    # Let GTK scroll to the field that gets the focus.
    page.set_focus_vadjustment(frame.get_vadjustment())
    display = Gdk.Display.get_default()
    monitor = display.get_primary_monitor() or display.get_monitor(0)
    if monitor:
        frame.set_max_content_height(max(100, monitor.get_workarea().height - _FRAME))
    frame.show()
    return frame


def frame(title: str, content: Gtk.Widget) -> Gtk.Widget:
    """Return a frame with a title around `content`."""
    frame = GimpUi.Frame.new(title)
    frame.add(content)
    return frame


def grid() -> Gtk.Grid:
    """Return an empty grid, whose rows are filled by `add`."""
    return Gtk.Grid(column_spacing=GAP, row_spacing=GAP)


def add(grid: Gtk.Grid, row: int, text: str, field: Gtk.Widget) -> Gtk.Label:
    """Put `field` and a label with `text` into a row of the grid. Return the label."""
    label = Gtk.Label(label=text, use_underline=True, xalign=0, mnemonic_widget=field)
    name(field, text.replace("_", ""))
    grid.attach(label, 0, row, 1, 1)
    grid.attach(field, 1, row, 1, 1)
    return label


def name(field: Gtk.Widget, name: str) -> None:
    """Give a field the name that screen readers read."""
    field.get_accessible().set_name(name)


def note_label() -> Gtk.Label:
    """Return an empty label for a message. The label takes no space while it is empty."""
    return Gtk.Label(
        xalign=0,
        wrap=True,
        wrap_mode=Pango.WrapMode.WORD_CHAR,
        width_chars=_LEAST_WIDTH,
        max_width_chars=_TEXT_WIDTH,
        selectable=True,
        can_focus=False,
        no_show_all=True,
    )


def say(note: Gtk.Label, sentence: str) -> None:
    """Show `sentence` in the label `note`, or hide the label if the sentence is empty."""
    note.set_text(sentence)
    note.set_visible(bool(sentence))


def message(
    window: Gtk.Window, kind: Gtk.MessageType, text: str, explanation: str
) -> Gtk.MessageDialog:
    """Create a message window, which must be shown, and emits a signal when the user answers.

    `Gtk.Dialog.run` is not used here, because it would run a main loop inside the signal of a
    button. Screen readers would then wait, and couldn't read the message.
    """
    return Gtk.MessageDialog(
        transient_for=window,
        modal=True,
        message_type=kind,
        text=text,
        secondary_text=explanation or None,
    )
