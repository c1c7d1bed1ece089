"""The window in which the user writes a prompt, sees what will be sent, edits, and compares.

The window stays open until the user closes it, so that the user can start several edits. It is
GIMP's own dialog for procedures, so that *Reset* and saved settings work as in other dialogs of
GIMP. Each edit has a row below the choices, which shows its progress and its results.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from gi.repository import Gdk, Gimp, GimpUi, GLib, GObject, Gtk

from plugin import history, settings
from plugin.errors import NotReplaceable, UserError, WorkerBroken, unforeseen
from plugin.gimp import choices, results
from plugin.gimp.edit import Edit, check
from plugin.gimp.edit_status import unfinished
from plugin.gimp.planning import Request, selection_bounds, shortened
from plugin.gimp.process import worker_process
from plugin.gimp.translation import _
from plugin.gimp.ui import earlier, settings_dialog
from plugin.gimp.ui.earlier import EarlierEdits
from plugin.gimp.ui.edit_row import EditRow
from plugin.gimp.ui.notice import Notice
from plugin.gimp.ui.preview import Preview
from plugin.gimp.ui.questions import FreshMenuButton, agreed, agreed_to_all
from plugin.gimp.ui.references import References
from plugin.gimp.ui.worker_repair import WorkerRepair

_ENTER = (Gdk.KEY_Return, Gdk.KEY_KP_Enter, Gdk.KEY_ISO_Enter)
_TICK = 500
"""Milliseconds between two updates of the rows."""
_LAST_WORD = 3
"""A closed window waits this many seconds for the end of workers that have sent nothing."""
_ONSCREEN = 200
"""The window opens at its last position only if enough of it would be on the screen.

The upper left corner must be more than this many pixels from the right and the lower edge.
"""
_FRAME = 160
"""The height of the window's title and buttons and the desktop's panels, in pixels (estimated)."""


def run(
    procedure: Gimp.Procedure,
    config: Gimp.ProcedureConfig,
    image: Gimp.Image,
    request: Callable[[], Request],
    with_earlier: bool,
) -> None:
    """Show the window for `image` until the user closes it.

    `request` converts the arguments in `config` to a Request. If `with_earlier` is true, the list
    of earlier edits is open at first.
    """
    # Use this name for both procedures, so that the desktop treats them as a single program.
    GimpUi.init("dimilinks-edit")
    results.clear_up(image)
    Window(procedure, config, image, request).run(with_earlier)


class Window:
    """The window of one image, with a row for each edit that the user starts in it."""

    def __init__(
        self,
        procedure: Gimp.Procedure,
        config: Gimp.ProcedureConfig,
        image: Gimp.Image,
        request: Callable[[], Request],
    ) -> None:
        self.image = image
        self._config = config
        self._config_request = request
        self._rows: list[EditRow] = []
        self._progress = False
        self._pressed = -math.inf
        """The time when *Edit* was last pressed, on the monotonic clock."""
        self._last: object = None
        """The value of `_asked` for the last edit, or None before the first edit."""
        self._had_selection = False
        """Whether the image has had a selection since the last edit."""
        self._typed = ""
        """The contents of the prompt field at the last call of `_tick`."""
        self._kept = config.get_property("prompt") or ""
        self.dialog = GimpUi.ProcedureDialog.new(procedure, config, _("Edit with AI"))
        self.dialog.set_ok_label(_("_Edit"))
        # Hide the help button, because GIMP's manual has no page on this window.
        self.dialog.get_widget_for_response(Gtk.ResponseType.HELP).hide()
        close = self.dialog.get_widget_for_response(Gtk.ResponseType.CANCEL)
        close.set_label(_("_Close"))
        self._edit_button = self.dialog.get_widget_for_response(Gtk.ResponseType.OK)
        self._notice = Notice(self._notice_changed)
        self._worker_repair = WorkerRepair(self._notice, self._works_again)
        self._references = References()
        self._preview = Preview(image, self._request)
        self._edits = Gtk.Box(orientation=Gtk.Orientation.VERTICAL, spacing=12)
        self._earlier = EarlierEdits(self, self._ids, self._grow)
        self._text = self._prompt_field()
        self._fill()
        self.dialog.connect("key-press-event", self._start_by_ctrl_enter)
        self._restore_references()
        # Ignore errors, because the window works even if old jobs can't be removed.
        with contextlib.suppress(OSError):
            history.prune(settings.keep_days(), time.time())
        self._offer_unfinished()
        self._ask_service()

    def run(self, with_earlier: bool) -> None:
        """Show the window, and start an edit for each press of *Edit*, until the user closes it.

        If `with_earlier` is true, open the list of earlier edits.
        """
        if with_earlier:
            GLib.timeout_add(_TICK, self._show_earlier)
        # Give the focus to the prompt field. GIMP gives it to *Edit*, so that the first space in a
        # typed prompt would press this button.
        self._text.grab_focus()
        self._restore_place()
        ticks = GLib.timeout_add(_TICK, self._tick)
        try:
            while self.dialog.run():
                try:
                    self._start()
                except Exception as error:
                    # Don't end this process, because the other edits of this window must continue.
                    # An exception is possible here, for example because the user can close the
                    # image even while a question is shown.
                    self._notice.tell(unforeseen(error))
                self._text.grab_focus()
        finally:
            GLib.source_remove(ticks)
            self._worker_repair.stop()
            self._remember()
            self._remember_place()
            self._let_go()
            self._show_progress()
            self.dialog.destroy()

    def _let_go(self) -> None:
        """Cancel the running edits.

        If a worker has sent nothing yet, its job is removed when the worker ends. Wait for this up
        to _LAST_WORD seconds.
        """
        edits = [row.edit for row in self._live() if row.edit is not None and not row.edit.ended]
        for edit in edits:
            edit.cancel()
        end = time.monotonic() + _LAST_WORD
        while time.monotonic() < end and any(edit.is_leaving for edit in edits):
            GLib.MainContext.default().iteration(False)
            time.sleep(0.01)

    # These methods build the window.

    def _fill(self) -> None:
        content = Gtk.Box(orientation=Gtk.Orientation.VERTICAL, spacing=12, border_width=12)
        for each in (
            self._prompt_box(),
            self._preview,
            self._choices(),
            self._more(),
            self._edits,
            self._earlier,
        ):
            content.pack_start(each, False, False, 0)
        scrolled = Gtk.ScrolledWindow(hscrollbar_policy=Gtk.PolicyType.NEVER)
        scrolled.set_propagate_natural_height(True)
        scrolled.add(content)
        self._scrolled = scrolled
        self._keep_on_screen()
        area = self.dialog.get_content_area()
        for each in area.get_children():
            # Move GIMP's buttons for saved settings to the rarely needed choices.
            if isinstance(each, Gtk.ButtonBox) and each is not self.dialog.get_action_area():
                area.remove(each)
                # Put the buttons below each other. Side by side, they would be wider than the
                # window in some languages.
                each.set_orientation(Gtk.Orientation.VERTICAL)
                each.set_halign(Gtk.Align.START)
                self._seldom.pack_start(each, False, False, 0)
        area.set_border_width(0)
        for place, each in enumerate((self._notice, scrolled)):
            each.show_all()
            area.pack_start(each, each is scrolled, True, 0)
            area.reorder_child(each, place)

    def _notice_changed(self) -> None:
        self._keep_on_screen()
        GLib.idle_add(self._grow)

    def _keep_on_screen(self) -> None:
        """Limit the height of the scrolled area, so that the whole window fits on the screen."""
        display = self.dialog.get_display()
        monitor = display.get_primary_monitor() or display.get_monitor(0)
        _least, notice = self._notice.get_preferred_height()
        room = monitor.get_workarea().height - _FRAME - notice
        self._scrolled.set_max_content_height(max(100, room))

    def _prompt_field(self) -> Gtk.TextView:
        """Create the field for the prompt, and connect it to the procedure's argument `prompt`."""
        text = Gtk.TextView(wrap_mode=Gtk.WrapMode.WORD_CHAR, left_margin=6, right_margin=6)
        # Let the Tab key move to the next field, because a prompt contains no tabs.
        text.set_accepts_tab(False)
        text.set_input_hints(Gtk.InputHints.SPELLCHECK | Gtk.InputHints.UPPERCASE_SENTENCES)
        text.get_accessible().set_name(_("Prompt"))
        buffer = text.get_buffer()
        # Bind the field and the argument in both directions: typing changes the argument, and
        # *Reset* and saved settings change the field.
        self._config.bind_property(
            "prompt",
            buffer,
            "text",
            GObject.BindingFlags.BIDIRECTIONAL | GObject.BindingFlags.SYNC_CREATE,
        )
        return text

    def _prompt_box(self) -> Gtk.Widget:
        box = Gtk.Box(orientation=Gtk.Orientation.VERTICAL, spacing=6)
        label = Gtk.Label(label=_("_Prompt"), use_underline=True, xalign=0)
        label.set_mnemonic_widget(self._text)
        past = FreshMenuButton(_("Past Pr_ompts"), self._list_prompts)
        past.set_relief(Gtk.ReliefStyle.NONE)
        settings_button = Gtk.Button(label=_("Settin_gs…"), use_underline=True)
        settings_button.set_relief(Gtk.ReliefStyle.NONE)
        settings_button.connect("clicked", lambda _button: GLib.idle_add(self.settings))
        head = Gtk.Box(spacing=6)
        head.pack_start(label, True, True, 0)
        head.pack_start(past, False, False, 0)
        head.pack_start(settings_button, False, False, 0)
        frame = Gtk.ScrolledWindow(
            shadow_type=Gtk.ShadowType.IN, hscrollbar_policy=Gtk.PolicyType.NEVER
        )
        frame.set_size_request(380, 72)
        frame.add(self._text)
        box.pack_start(head, False, False, 0)
        box.pack_start(frame, False, False, 0)
        # The field gets the focus before the buttons above it, because the prompt comes first.
        box.set_focus_chain([frame, head])
        return box

    def _choices(self) -> Gtk.Widget:
        box = Gtk.Box(orientation=Gtk.Orientation.VERTICAL, spacing=6)
        # Request a combo box for "output". Without a type, GIMP 3.2 would use radio buttons.
        box.pack_start(self._widget("use-selection"), False, False, 0)
        box.pack_start(self._widget("output", Gtk.ComboBox.__gtype__), False, False, 0)
        variations = self._widget("variations")
        box.pack_start(variations, False, False, 0)

        def output_changed(*_signal: object) -> None:
            variations.set_sensitive(self._config.get_property("output") != "replace")

        self._config.connect("notify::output", output_changed)
        output_changed()
        return box

    def _more(self) -> Gtk.Widget:
        expander = Gtk.Expander(label=_("_More choices"), use_underline=True)
        box = Gtk.Box(orientation=Gtk.Orientation.VERTICAL, spacing=6, margin_top=6)
        box.pack_start(self._widget("source", Gtk.ComboBox.__gtype__), False, False, 0)
        box.pack_start(self._widget("resolution", Gtk.ComboBox.__gtype__), False, False, 0)
        for name in ("size", "context", "blend", "repair"):
            box.pack_start(self._widget(name), False, False, 0)
        box.pack_start(self._references, False, False, 0)
        self._seldom = box
        expander.add(box)
        expander.connect("notify::expanded", lambda *_: GLib.idle_add(self._grow))
        return expander

    def _widget(self, name: str, kind: GObject.GType = GObject.TYPE_NONE) -> Gtk.Widget:
        """Return the widget by which the user sets the argument `name`, including its label."""
        widget = self.dialog.get_widget(name, kind)
        label = self._config.find_property(name).nick.replace("_", "")
        for field in _fields(widget):
            field.get_accessible().set_name(label)
        return widget

    # These methods read, save and restore what the user has chosen.

    def _request(self) -> Request:
        return replace(
            self._config_request(),
            reference_layers=self._references.layers,
            reference_files=self._references.files,
        )

    def _keep_typed(self) -> None:
        """Save the typed prompt when the user pauses, in case this process dies."""
        typed = self._config.get_property("prompt") or ""
        if typed == self._typed and typed != self._kept:
            self._kept = typed
            choices.keep_prompt(typed)
        self._typed = typed

    def _remember(self, edited: str = "") -> None:
        choices.remember(self._config, self._references.files, edited)

    def _restore_place(self) -> None:
        """Move the window to the position that it had last, if this position is on a screen."""
        place = settings.comforts().get("window")
        display = self.dialog.get_display()
        if not (isinstance(place, list) and [type(each) for each in place] == [int, int]):
            return
        area = display.get_monitor_at_point(*place).get_workarea()
        x, y = place[0] - area.x, place[1] - area.y
        if 0 <= x < area.width - _ONSCREEN and 0 <= y < area.height - _ONSCREEN:
            self.dialog.move(*place)

    def _remember_place(self) -> None:
        with contextlib.suppress(OSError):
            settings.save(window=list(self.dialog.get_position()))

    def _restore_references(self) -> None:
        for path in choices.reference_files():
            if Path(path).is_file():
                self._references.add(path)

    def _list_prompts(self, menu: Gtk.Menu) -> None:
        for prompt in choices.past_prompts():
            item = Gtk.MenuItem(label=shortened(prompt))
            item.set_tooltip_text(prompt)
            item.connect("activate", lambda _item, prompt=prompt: self.reuse(prompt))
            menu.append(item)
        if not menu.get_children():
            none = Gtk.MenuItem(label=_("None yet"), sensitive=False)
            menu.append(none)

    # The rows call these methods.

    def reuse(self, prompt: str) -> None:
        """Put `prompt` into the prompt field, so that the user can change it."""
        self._config.set_property("prompt", prompt)
        self._scrolled.get_vadjustment().set_value(0)
        self._text.grab_focus()

    def again(self, prompt: str) -> None:
        """Start an edit with `prompt` and the choices that are now set in the window."""
        self.reuse(prompt)
        self.dialog.response(Gtk.ResponseType.OK)

    def settings(self) -> None:
        """Open the settings window. When it is closed, apply the changed settings."""
        settings_dialog.show(self.dialog)
        self._ask_service()

    # These methods start edits and update their rows.

    def _start_by_ctrl_enter(self, _dialog: Gtk.Dialog, event: Gdk.EventKey) -> bool:
        if event.keyval in _ENTER and event.state & Gdk.ModifierType.CONTROL_MASK:
            if self._edit_button.get_sensitive():
                self.dialog.response(Gtk.ResponseType.OK)
            return True
        return False

    def _start(self) -> None:
        """Start an edit, or show in the window why the edit can't be started."""
        request = self._request()
        asked = self._asked(request)
        if asked == self._last and time.monotonic() - self._pressed < choices.ONE_PRESS:
            # Ignore this press: it comes from a double click, or from a key that is held down.
            # Count from this press on, because a key that is held down causes further presses.
            self._pressed = time.monotonic()
            return
        self._notice.clear()
        if not self._means_the_whole(request):
            return
        drawables = self.image.get_selected_drawables() if self.image.is_valid() else []
        try:
            try:
                layers = check(self.image, drawables, request)
            except NotReplaceable as error:
                if not agreed(self.dialog, str(error), _("Put It into a _New Layer")):
                    return
                self._config.set_property("output", "new-layer")
                request = self._request()
                layers = check(self.image, drawables, request)
            if not agreed_to_all(self.dialog, len(layers) * request.variations):
                return
            edit = Edit(self.image, layers, request, self._changed)
        except WorkerBroken:
            self._worker_repair.offer()
            return
        except UserError as error:
            if not self._service_missing():
                self._notice.tell(str(error))
            return
        # Measure the time from here, and not from the press: the window handles the second press of
        # a double click only after this method has ended.
        self._pressed, self._last = time.monotonic(), asked
        self._had_selection = False
        self._remember(request.prompt)
        row = EditRow(self, edit.jobs, edit)
        self._add_row(row)
        self._show_progress()
        GLib.idle_add(edit.start)

    def _asked(self, request: Request) -> object:
        """Return the request, the bounds of the selection and the ids of the selected layers.

        Return None if the image was closed. If *Edit* is pressed twice within a short time, and
        this value is the same for both presses, the user did not intend the second press.
        """
        if not self.image.is_valid():
            return None
        chosen = [each.get_id() for each in self.image.get_selected_drawables()]
        return request, selection_bounds(self.image), chosen

    def _means_the_whole(self, request: Request) -> bool:
        """Return whether the edit should start. Ask the user if the selection was removed.

        Without a selection, the whole layer or image is edited, which can cost more. The question
        comes only if the image has had a selection since the last edit.
        """
        if not (request.use_selection and self._had_selection and self.image.is_valid()):
            return True
        if selection_bounds(self.image) is not None:
            return True
        if not agreed(
            self.dialog,
            _("Nothing is selected now. Edit everything?"),
            _("Edit _All of It"),
            _("A larger area can cost more. To edit only a part, cancel and select it."),
        ):
            return False
        self._had_selection = False
        return True

    def _add_row(self, row: EditRow) -> None:
        self._rows.append(row)
        self._edits.pack_start(row, False, False, 0)
        self._edits.reorder_child(row, 0)
        # Wait until GTK has given the row its position, then scroll to it.
        GLib.timeout_add(100, self._scroll_to, row)

    def _grow(self) -> bool:
        """Make the window higher if its contents need more height, as far as the screen allows."""
        width, height = self.dialog.get_size()
        _least, wanted = self.dialog.get_preferred_height_for_width(width)
        self.dialog.resize(width, max(height, wanted))
        return False

    def _scroll_to(self, thing: Gtk.Widget) -> bool:
        if thing.get_mapped():
            self._grow()
            place = thing.get_allocation()
            adjustment = self._scrolled.get_vadjustment()
            adjustment.clamp_page(place.y, place.y + place.height)
        return False

    def _live(self) -> list[EditRow]:
        """Return the rows that are still in the window, without those that were removed."""
        shown = self._edits.get_children()
        self._rows = [row for row in self._rows if row in shown]
        return self._rows

    def _ids(self) -> set[str]:
        return {each for row in self._live() for each in row.ids}

    def _changed(self) -> None:
        self._update_rows()
        Gimp.displays_flush()
        self._show_progress()

    def _update_rows(self) -> None:
        for row in self._live():
            if row.update():
                # Wait until GTK has given the row its new position, then scroll to it.
                GLib.timeout_add(100, self._scroll_to, row)
        self._earlier.update()

    def _tick(self) -> bool:
        there = self.image.is_valid()
        self._edit_button.set_sensitive(there)
        if there and selection_bounds(self.image) is not None:
            self._had_selection = True
        self._keep_typed()
        self._update_rows()
        self._show_progress()
        return True

    def _show_progress(self) -> None:
        """Show the progress of the running edits in the status bar of GIMP's image window."""
        running = [row.edit for row in self._live() if row.running and row.edit is not None]
        if not running:
            if self._progress:
                Gimp.progress_end()
            self._progress = False
            return
        text = running[0].phase_text()
        if len(running) > 1:
            text = _("{count} edits: {phase}").format(count=len(running), phase=text)
        if not self._progress:
            Gimp.progress_init(text)
            self._progress = True
        Gimp.progress_set_text(text)
        Gimp.progress_pulse()

    # These methods ask the user for the key and find out whether the service can be used.

    def _service_missing(self) -> bool:
        """Return whether the key is missing or the address is invalid.

        If so, show a notice with buttons by which the user can solve the problem.
        """
        try:
            sandbox = settings.base_url() == settings.SANDBOX
            key = sandbox or settings.key_place()
        except UserError as error:
            self._notice.tell(str(error), buttons=((_("_Settings…"), self.settings),))
            return True
        if key:
            return False
        self._notice.tell(
            _(
                "There is no API key yet. Enter the key that you got from the service, or try "
                "the built-in sandbox. It is free, sends nothing, and shows how everything "
                "works, with simple effects instead of AI."
            ),
            Gtk.MessageType.QUESTION,
            (
                (_("Enter the _Key…"), self.settings),
                (_("Try t_he Sandbox"), self._try_sandbox),
            ),
        )
        return True

    def _ask_service(self) -> None:
        """Ask the service for its prices, and check that the worker can run.

        If the key is missing, or the worker can't run, show a notice with buttons by which the user
        can solve the problem.
        """
        self._notice.clear()
        self._preview.set_prices({})
        if not self._service_missing() and settings.base_url() != settings.SANDBOX:
            worker_process.ask(["service"], self._service_answered)
        worker_process.watch_spare(self._worker_repair.offer)

    def _works_again(self) -> None:
        self._ask_service()
        if not self._notice.get_children():
            self._notice.tell(_("Dimilinks works again."), Gtk.MessageType.INFO)

    def _try_sandbox(self) -> None:
        try:
            settings.save(base_url=settings.SANDBOX)
        except OSError as error:
            self._notice.tell(str(error))
            return
        self._preview.set_prices({})
        self._text.grab_focus()

    def _service_answered(self, answer: dict[str, Any]) -> None:
        prices = answer.get("prices")
        if isinstance(prices, dict):
            self._preview.set_prices(prices)

    # These methods show the edits of earlier windows.

    def _offer_unfinished(self) -> None:
        """Add rows for the unfinished edits of earlier windows, and let workers finish these edits.

        An edit is unfinished if an answer is still missing, or if a result is in no image yet.
        """
        for each in earlier.jobs():
            if unfinished(each):
                self._rows.append(EditRow(self, [each]))
                self._edits.pack_start(self._rows[-1], False, False, 0)
        self._collect(list(self._rows))

    def _collect(self, rows: list[EditRow]) -> None:
        """Let workers get the answers to edits of earlier windows, one row after the other."""
        if rows:
            rows[0].collect(lambda: self._collect(rows[1:]))

    def _show_earlier(self) -> bool:
        self._earlier.set_expanded(True)
        GLib.timeout_add(_TICK, self._scroll_to, self._earlier)
        return False


def _fields(widget: Gtk.Widget) -> list[Gtk.Widget]:
    """Return the text entries in a widget. GIMP gives them no names for screen readers."""
    if isinstance(widget, Gtk.Entry):
        return [widget]
    if not isinstance(widget, Gtk.Container):
        return []
    return [field for child in widget.get_children() for field in _fields(child)]
