"""The window in which the user writes a prompt, sees what will be sent, edits, and compares.

It stays open until the user closes it. It is GIMP's own dialog for a procedure, run again and
again, so that GIMP's *Reset* and saved settings work as in other dialogs. The edits and their
results are rows below the choices.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from gi.repository import Gdk, Gimp, GimpUi, GLib, GObject, Gtk, Pango

from plugin import job, settings
from plugin.gimp import choices, results, worker_process
from plugin.gimp.capture import PLACE, Request, selection_bounds, shortened
from plugin.gimp.edit import Edit, check
from plugin.gimp.messages import EditError, NotReplaceable, WorkerBroken, _, unforeseen
from plugin.gimp.ui import settings_dialog
from plugin.gimp.ui.edit_row import EditRow, has_something, unfinished
from plugin.gimp.ui.messages import FreshMenuButton, agreed, agreed_to_all
from plugin.gimp.ui.preview import Preview
from plugin.gimp.ui.references import References

_ENTER = (Gdk.KEY_Return, Gdk.KEY_KP_Enter, Gdk.KEY_ISO_Enter)
_EARLIER = 20
"""The number of earlier edits that are listed at once."""
_TICK = 500
"""Milliseconds between two updates of the rows."""
_LAST_WORD = 3
"""Seconds to wait for the end of workers that have sent nothing."""
_ONSCREEN = 200
"""The least number of pixels of the window that must be on the screen when it opens."""
_FRAME = 160
"""The height of the screen's panels and the window's title and buttons, in pixels."""


def run(
    procedure: Gimp.Procedure,
    config: Gimp.ProcedureConfig,
    image: Gimp.Image,
    request: Callable[[], Request],
    earlier: bool,
) -> None:
    """Show the window for `image` until the user closes it.

    `request` returns the arguments in `config`. With `earlier`, the list of earlier edits is shown.
    """
    # The name is the same for both menu items, so that the desktop sees a single program.
    GimpUi.init("dimilinks-edit")
    results.clear_up(image)
    Window(procedure, config, image, request).run(earlier)


class Window:
    """The window of one image. Each edit that was started in it has a row."""

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
        """When *Edit* was last pressed, on the monotonic clock."""
        self._last: object = None
        """What the last edit was asked for, as returned by `_asked`."""
        self._had_selection = False
        """Whether anything was selected since the last edit."""
        self._typed = ""
        """The prompt at the last tick."""
        self._kept = config.get_property("prompt") or ""
        self._stop_mending: Callable[[], None] = lambda: None
        self.dialog = GimpUi.ProcedureDialog.new(procedure, config, _("Edit with AI"))
        self.dialog.set_ok_label(_("_Edit"))
        # GIMP's manual has no page on this window.
        self.dialog.get_widget_for_response(Gtk.ResponseType.HELP).hide()
        close = self.dialog.get_widget_for_response(Gtk.ResponseType.CANCEL)
        close.set_label(_("_Close"))
        self._edit_button = self.dialog.get_widget_for_response(Gtk.ResponseType.OK)
        self._notice = Gtk.Box(orientation=Gtk.Orientation.VERTICAL)
        self._references = References()
        self._preview = Preview(image, self._request)
        self._edits = Gtk.Box(orientation=Gtk.Orientation.VERTICAL, spacing=12)
        self._earlier = Gtk.Expander(label=_("Earl_ier edits"), use_underline=True)
        self._text = self._prompt_field()
        self._fill()
        self.dialog.connect("key-press-event", self._start_by_ctrl_enter)
        self._restore_references()
        # Removing old jobs is optional, so errors are ignored.
        with contextlib.suppress(OSError):
            job.prune(settings.keep_days(), time.time())
        self._offer_unfinished()
        self._ask_service()

    def run(self, earlier: bool) -> None:
        """Let the user edit until the window is closed."""
        if earlier:
            GLib.timeout_add(_TICK, self._show_earlier)
        # GIMP gives the focus to the button, which the first space of a prompt would press.
        self._text.grab_focus()
        self._restore_place()
        ticks = GLib.timeout_add(_TICK, self._tick)
        try:
            while self.dialog.run():
                try:
                    self._start()
                except Exception as error:
                    # The image may be closed at any moment, even while a question is shown. The
                    # other edits of this window must continue.
                    self._tell(unforeseen(error))
                self._text.grab_focus()
        finally:
            GLib.source_remove(ticks)
            self._stop_mending()
            self._remember()
            self._remember_place()
            self._let_go()
            self._show_progress()
            self.dialog.destroy()

    def _let_go(self) -> None:
        """Cancel the running edits.

        Wait up to _LAST_WORD seconds for workers that have sent nothing to end, so that their jobs
        are removed.
        """
        edits = [row.edit for row in self._live() if row.edit is not None and not row.edit.ended]
        for edit in edits:
            edit.cancel()
        end = time.monotonic() + _LAST_WORD
        while time.monotonic() < end and any(edit.is_leaving for edit in edits):
            GLib.MainContext.default().iteration(False)
            time.sleep(0.01)

    # Layout

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
        self._earlier.connect("notify::expanded", self._list_earlier)
        area = self.dialog.get_content_area()
        for each in area.get_children():
            # GIMP's buttons for saved settings. They are needed too rarely to be visible here.
            if isinstance(each, Gtk.ButtonBox) and each is not self.dialog.get_action_area():
                area.remove(each)
                # In some languages, they would be wider than the window side by side.
                each.set_orientation(Gtk.Orientation.VERTICAL)
                each.set_halign(Gtk.Align.START)
                self._seldom.pack_start(each, False, False, 0)
        area.set_border_width(0)
        for place, each in enumerate((self._notice, scrolled)):
            each.show_all()
            area.pack_start(each, each is scrolled, True, 0)
            area.reorder_child(each, place)

    def _keep_on_screen(self) -> None:
        """Limit the height of the scrolled part, so that the notice and the buttons fit too."""
        display = self.dialog.get_display()
        monitor = display.get_primary_monitor() or display.get_monitor(0)
        _least, notice = self._notice.get_preferred_height()
        room = monitor.get_workarea().height - _FRAME - notice
        self._scrolled.set_max_content_height(max(100, room))

    def _prompt_field(self) -> Gtk.TextView:
        """Create the field for the prompt, and bind it to the argument."""
        text = Gtk.TextView(wrap_mode=Gtk.WrapMode.WORD_CHAR, left_margin=6, right_margin=6)
        # A prompt needs no tabs, so Tab moves to the next field.
        text.set_accepts_tab(False)
        text.set_input_hints(Gtk.InputHints.SPELLCHECK | Gtk.InputHints.UPPERCASE_SENTENCES)
        text.get_accessible().set_name(_("Prompt"))
        buffer = text.get_buffer()
        # The binding works in both directions, because Reset and saved settings change the
        # argument.
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
        # Without a type, GIMP 3.2 would use radio buttons for short choices.
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
        """Return the field of an argument, with its label."""
        widget = self.dialog.get_widget(name, kind)
        label = self._config.find_property(name).nick.replace("_", "")
        for field in _fields(widget):
            field.get_accessible().set_name(label)
        return widget

    # Choices

    def _request(self) -> Request:
        return replace(
            self._config_request(),
            reference_layers=self._references.layers,
            reference_files=self._references.files,
        )

    def _keep_typed(self) -> None:
        """Save the typed prompt when the user pauses, as this process may end at any moment."""
        typed = self._config.get_property("prompt") or ""
        if typed == self._typed and typed != self._kept:
            self._kept = typed
            choices.keep_prompt(typed)
        self._typed = typed

    def _remember(self, edited: str = "") -> None:
        choices.remember(self._config, self._references.files, edited)

    def _restore_place(self) -> None:
        """Move the window to its last position, if this is still on a screen."""
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

    # Methods for the rows

    def reuse(self, prompt: str) -> None:
        """Put this prompt into the field, so that it can be changed."""
        self._config.set_property("prompt", prompt)
        self._scrolled.get_vadjustment().set_value(0)
        self._text.grab_focus()

    def again(self, prompt: str) -> None:
        """Start an edit with this prompt and the current choices."""
        self.reuse(prompt)
        self.dialog.response(Gtk.ResponseType.OK)

    def settings(self) -> None:
        """Open the settings, and use the changed settings afterwards."""
        settings_dialog.show(self.dialog)
        self._ask_service()

    # Editing

    def _start_by_ctrl_enter(self, _dialog: Gtk.Dialog, event: Gdk.EventKey) -> bool:
        if event.keyval in _ENTER and event.state & Gdk.ModifierType.CONTROL_MASK:
            if self._edit_button.get_sensitive():
                self.dialog.response(Gtk.ResponseType.OK)
            return True
        return False

    def _start(self) -> None:
        """Start an edit, or show in the window why this is not possible."""
        request = self._request()
        asked = self._asked(request)
        if asked == self._last and time.monotonic() - self._pressed < choices.ONE_PRESS:
            # A key that is held down causes further presses.
            self._pressed = time.monotonic()
            return
        self._clear_notice()
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
            self._offer_mending()
            return
        except EditError as error:
            if not self._service_missing():
                self._tell(str(error))
            return
        # Measure the time from here: the second press of a double click was delayed until now.
        self._pressed, self._last = time.monotonic(), asked
        self._had_selection = False
        self._remember(request.prompt)
        row = EditRow(self, edit.jobs, edit)
        self._add_row(row)
        self._show_progress()
        GLib.idle_add(edit.start)

    def _asked(self, request: Request) -> object:
        """Return the request, the bounds of the selection and the ids of the selected layers.

        Return None if the image was closed. If two presses of *Edit* follow each other quickly and
        have the same value, the second one was not intended.
        """
        if not self.image.is_valid():
            return None
        chosen = [each.get_id() for each in self.image.get_selected_drawables()]
        return request, selection_bounds(self.image), chosen

    def _means_the_whole(self, request: Request) -> bool:
        """Return whether an edit may go on, and ask the user if its selection was lost since.

        Without a selection everything is edited, which costs more.
        """
        if not (request.use_selection and self._had_selection and self.image.is_valid()):
            return True
        if selection_bounds(self.image) is not None:
            return True
        if not agreed(
            self.dialog,
            _("Nothing is selected any more. Edit all of it?"),
            _("Edit _All of It"),
            _("A larger part can cost more. Cancel to select again what is to be edited."),
        ):
            return False
        self._had_selection = False
        return True

    def _add_row(self, row: EditRow) -> None:
        self._rows.append(row)
        self._edits.pack_start(row, False, False, 0)
        self._edits.reorder_child(row, 0)
        # Scroll to the row when it has its position.
        GLib.timeout_add(100, self._scroll_to, row)

    def _grow(self) -> bool:
        """Make the window higher if its content needs it, as far as the screen allows."""
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
        """Return the rows that were not discarded."""
        shown = self._edits.get_children()
        self._rows = [row for row in self._rows if row in shown]
        return self._rows

    def _changed(self) -> None:
        self._update_rows()
        Gimp.displays_flush()
        self._show_progress()

    def _update_rows(self) -> None:
        for row in self._live():
            if row.update():
                # Scroll to the row when it has its position.
                GLib.timeout_add(100, self._scroll_to, row)
        if self._earlier.get_expanded():
            for row in self._earlier.get_child().get_children():
                if isinstance(row, EditRow):
                    row.update()

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
        """Show the progress of the running edits in the status bar of the image."""
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

    # Notices

    def _clear_notice(self) -> None:
        for child in self._notice.get_children():
            child.destroy()
        self._keep_on_screen()

    def _tell(
        self,
        sentence: str,
        kind: Gtk.MessageType = Gtk.MessageType.ERROR,
        buttons: tuple[tuple[str, Callable[[], None]], ...] = (),
    ) -> Gtk.Label:
        """Show a message at the top of the window, with buttons for the next steps.

        Return the label of the message.
        """
        self._clear_notice()
        bar = Gtk.InfoBar(message_type=kind, show_close_button=not buttons)
        bar.connect("response", lambda *_: self._clear_notice())
        label = Gtk.Label(label=sentence, wrap=True, xalign=0, hexpand=True, max_width_chars=40)
        label.set_line_wrap_mode(Pango.WrapMode.WORD_CHAR)
        # Beside the message, the buttons would make the window wider than necessary.
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
        self._notice.add(bar)
        self._keep_on_screen()
        GLib.idle_add(self._grow)
        return label

    def _answered(self, _button: Gtk.Button, action: Callable[[], None]) -> None:
        self._clear_notice()
        # Don't open a dialog inside a signal, where its main loop would keep screen readers
        # waiting.
        GLib.idle_add(action)

    def _service_missing(self) -> bool:
        """Return whether the service can't be used, and offer what to do in this case."""
        try:
            sandbox = settings.base_url() == settings.SANDBOX
            key = sandbox or settings.key_place()
        except ValueError as error:
            self._tell(str(error), buttons=((_("_Settings…"), self.settings),))
            return True
        if key:
            return False
        self._tell(
            _(
                "There is no API key yet. Enter the one that you have from the service, or "
                "try the built-in sandbox: it is free, sends nothing, and shows how "
                "everything works, with simple effects in place of AI."
            ),
            Gtk.MessageType.QUESTION,
            (
                (_("Enter the _Key…"), self.settings),
                (_("Try t_he Sandbox"), self._try_sandbox),
            ),
        )
        return True

    def _ask_service(self) -> None:
        """Ask for the prices, and offer what to do if there is no key or the worker can't run."""
        self._clear_notice()
        self._preview.set_prices({})
        if not self._service_missing() and settings.base_url() != settings.SANDBOX:
            worker_process.ask(["service"], self._service_answered)
        worker_process.look(self._offer_mending)

    def _offer_mending(self) -> None:
        """Report that the worker can't run, with a button that rebuilds its environment."""
        self._tell(
            _(
                "The part of Dimilinks that talks to the service is missing or broken, as happens "
                "when the system or GIMP is upgraded, or the home folder moves. It can be made "
                "anew here: about 90 MB are fetched, once. Key, settings and edits stay."
            ),
            Gtk.MessageType.WARNING,
            ((_("_Fix It"), self._mend),),
        )

    def _mend(self) -> None:
        sentence = _("Making it anew; this takes a minute or two…")
        label = self._tell(sentence, Gtk.MessageType.INFO, ((_("Ca_ncel"), self._call_off),))
        stop = worker_process.mend(
            lambda line: label.set_text(f"{sentence}\n{shortened(line)}"), self._mended
        )
        self._stop_mending = stop

    def _call_off(self) -> None:
        stop, self._stop_mending = self._stop_mending, self._offer_mending
        stop()

    def _mended(self, why: str) -> None:
        called_off = self._stop_mending == self._offer_mending
        self._stop_mending = lambda: None
        if called_off:
            self._offer_mending()
            return
        if why:
            self._tell(
                _("It could not be made anew: {why}").format(why=why),
                buttons=((_("T_ry Again"), self._mend),),
            )
            return
        self._ask_service()
        if not self._notice.get_children():
            self._tell(_("Dimilinks works again."), Gtk.MessageType.INFO)

    def _try_sandbox(self) -> None:
        try:
            settings.save(base_url=settings.SANDBOX)
        except OSError as error:
            self._tell(str(error))
            return
        self._preview.set_prices({})
        self._text.grab_focus()

    def _service_answered(self, answer: dict[str, Any]) -> None:
        prices = answer.get("prices")
        if isinstance(prices, dict):
            self._preview.set_prices(prices)

    # Earlier edits

    def _offer_unfinished(self) -> None:
        """Add rows for the unfinished edits of earlier windows, and let workers finish them.

        These are edits without an answer yet, and edits with results that are in no image yet.
        """
        for each in _jobs():
            if unfinished(each):
                self._rows.append(EditRow(self, [each]))
                self._edits.pack_start(self._rows[-1], False, False, 0)
        self._collect(list(self._rows))

    def _collect(self, rows: list[EditRow]) -> None:
        """Let workers finish what earlier windows have sent, one row after the other."""
        if rows:
            rows[0].collect(lambda: self._collect(rows[1:]))

    def _show_earlier(self) -> bool:
        self._earlier.set_expanded(True)
        GLib.timeout_add(_TICK, self._scroll_to, self._earlier)
        return False

    def _list_earlier(self, expander: Gtk.Expander, _property: object) -> None:
        if not expander.get_expanded() or expander.get_child() is not None:
            return
        known = {each for row in self._live() for each in row.ids}
        box = Gtk.Box(orientation=Gtk.Orientation.VERTICAL, spacing=12, margin_top=6)
        jobs = [each for each in _jobs() if each.id not in known and has_something(each)]
        if not jobs:
            box.pack_start(Gtk.Label(label=_("None yet"), xalign=0), False, False, 0)
        box.show_all()
        expander.add(box)
        self._list_more(box, jobs)

    def _list_more(self, box: Gtk.Box, jobs: list[job.Job]) -> None:
        """Add rows for the first of these jobs, and a button if there are more."""
        for each in jobs[:_EARLIER]:
            box.pack_start(EditRow(self, [each]), False, False, 0)
        if rest := jobs[_EARLIER:]:
            more = Gtk.Button(label=_("Still Earlier Edits"), halign=Gtk.Align.START)

            def pressed(_button: Gtk.Button) -> None:
                more.destroy()
                self._list_more(box, rest)

            more.connect("clicked", pressed)
            more.show()
            box.pack_start(more, False, False, 0)
        GLib.timeout_add(100, self._grow)


def _show_through(widget: Gtk.Widget) -> None:
    """Make a widget's background transparent. GIMP's theme would paint it otherwise."""
    style = Gtk.CssProvider()
    style.load_from_data(b"* { background-color: transparent; }")
    widget.get_style_context().add_provider(style, Gtk.STYLE_PROVIDER_PRIORITY_USER)


def _fields(widget: Gtk.Widget) -> list[Gtk.Widget]:
    """Return the entries in a widget. They have no accessible name of their own."""
    if isinstance(widget, Gtk.Entry):
        return [widget]
    if not isinstance(widget, Gtk.Container):
        return []
    return [field for child in widget.get_children() for field in _fields(child)]


def _jobs() -> list[job.Job]:
    """Return the jobs that were made from an image, the newest first."""
    try:
        jobs = job.all_jobs()
    except OSError:
        return []
    return [each for each in reversed(jobs) if (each.folder / PLACE).exists()]
