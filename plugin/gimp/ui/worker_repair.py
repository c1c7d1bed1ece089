"""Let the user repair the worker, the process that talks to the service, if it can't run."""

from __future__ import annotations

from collections.abc import Callable

from gi.repository import Gtk

from plugin.gimp.planning import shortened
from plugin.gimp.process import worker_process
from plugin.gimp.translation import _
from plugin.gimp.ui.notice import Notice


class WorkerRepair:
    """Offers the repair in `notice`, and calls `works_again` after a successful repair."""

    def __init__(self, notice: Notice, works_again: Callable[[], None]) -> None:
        self._notice = notice
        self._works_again = works_again
        self._stop: Callable[[], None] = lambda: None

    def stop(self) -> None:
        """Stop the repair if one is running."""
        self._stop()

    def offer(self) -> None:
        """Tell the user that the worker can't run, and show a button that starts the repair."""
        self._notice.tell(
            _(
                "The part of Dimilinks that talks to the service is missing or broken. This "
                "happens after an upgrade of the system or of GIMP, or when the home folder "
                "was moved. “Fix It” downloads it again (about 90 MB). Your key, settings and "
                "edits stay."
            ),
            Gtk.MessageType.WARNING,
            ((_("_Fix It"), self._mend),),
        )

    def _mend(self) -> None:
        sentence = _("Repairing. This takes a minute or two…")
        label = self._notice.tell(sentence, Gtk.MessageType.INFO, ((_("Ca_ncel"), self._call_off),))
        stop = worker_process.mend(
            lambda line: label.set_text(f"{sentence}\n{shortened(line)}"), self._mended
        )
        self._stop = stop

    def _call_off(self) -> None:
        stop, self._stop = self._stop, self.offer
        stop()

    def _mended(self, why: str) -> None:
        called_off = self._stop == self.offer
        self._stop = lambda: None
        if called_off:
            self.offer()
            return
        if why:
            self._notice.tell(
                _(
                    "The repair failed. Choose Try Again, or install Dimilinks again. "
                    "Details: {why}"
                ).format(why=why),
                buttons=((_("T_ry Again"), self._mend),),
            )
            return
        self._works_again()
