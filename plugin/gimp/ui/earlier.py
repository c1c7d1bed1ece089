"""The list at the bottom of the window that shows edits of earlier windows."""

from __future__ import annotations

from collections.abc import Callable

from gi.repository import GLib, Gtk

from plugin import history
from plugin.gimp.capture import PLACE
from plugin.gimp.edit_status import has_something
from plugin.gimp.translation import _
from plugin.gimp.ui.edit_row import EditRow, Owner
from plugin.job import Job

_AT_ONCE = 20
"""The number of rows that are added at once. A button adds more rows."""


def jobs() -> list[Job]:
    """Return the jobs that were made from an image, the newest first."""
    try:
        found = history.all_jobs()
    except OSError:
        return []
    return [each for each in reversed(found) if (each.folder / PLACE).exists()]


class EarlierEdits(Gtk.Expander):
    """The rows of earlier edits, which are read from the disk when the user opens the list.

    `known` returns the ids of the jobs that already have a row elsewhere in the window. `grow` is
    called after rows were added, so that the window can become higher.
    """

    def __init__(
        self, owner: Owner, known: Callable[[], set[str]], grow: Callable[[], bool]
    ) -> None:
        super().__init__(label=_("Earl_ier edits"), use_underline=True)
        self._owner = owner
        self._known = known
        self._grow = grow
        self.connect("notify::expanded", self._opened)

    def update(self) -> None:
        """Show the current states of the edits, if the list is open."""
        if self.get_expanded():
            for row in self.get_child().get_children():
                if isinstance(row, EditRow):
                    row.update()

    def _opened(self, *_signal: object) -> None:
        if not self.get_expanded() or self.get_child() is not None:
            return
        known = self._known()
        box = Gtk.Box(orientation=Gtk.Orientation.VERTICAL, spacing=12, margin_top=6)
        listed = [each for each in jobs() if each.id not in known and has_something(each)]
        if not listed:
            box.pack_start(Gtk.Label(label=_("None yet"), xalign=0), False, False, 0)
        box.show_all()
        self.add(box)
        self._list(box, listed)

    def _list(self, box: Gtk.Box, listed: list[Job]) -> None:
        """Add rows for the first _AT_ONCE jobs in `listed`, and a button that adds the others."""
        for each in listed[:_AT_ONCE]:
            box.pack_start(EditRow(self._owner, [each]), False, False, 0)
        if rest := listed[_AT_ONCE:]:
            more = Gtk.Button(label=_("Show More"), halign=Gtk.Align.START)

            def pressed(_button: Gtk.Button) -> None:
                more.destroy()
                self._list(box, rest)

            more.connect("clicked", pressed)
            more.show()
            box.pack_start(more, False, False, 0)
        GLib.timeout_add(100, self._grow)
