"""The settings window. Changes apply at once.

The worker, a separate process, saves the key and tests the connection, because these take time.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from gi.repository import Gdk, GimpUi, GLib, Gtk

from plugin import history, settings, storage
from plugin.errors import Unusable, UserError
from plugin.gimp.process import worker_process
from plugin.gimp.translation import _
from plugin.gimp.ui import form
from plugin.limits import TIERS

T = TypeVar("T")

_ANEW = 1
"""The response by which the window asks to be created again, after the settings were reset."""
_BORDER = 12
_WIDTH = 560


def show(parent: Gtk.Window | None) -> None:
    """Show the settings window until the user closes it.

    The window is above `parent`, or above GIMP if `parent` is None. This function runs a main loop
    of its own, so don't call it inside the signal of a button (see `_message`).
    """
    GimpUi.init("dimilinks-settings")
    # If the user starts over with new settings, create the window again to show them.
    while _Settings(parent).run():
        pass


class _Settings:
    """The window and its fields."""

    def __init__(self, parent: Gtk.Window | None) -> None:
        self._window = GimpUi.Dialog(
            title=_("Dimilinks Settings"), role="dimilinks-settings", modal=True
        )
        self._window.add_button(_("_Close"), Gtk.ResponseType.CLOSE)
        self._window.set_default_response(Gtk.ResponseType.CLOSE)
        if parent:
            self._window.set_transient_for(parent)
        else:
            GimpUi.window_set_transient(self._window)
        self._window.set_default_size(_WIDTH, -1)
        self._working = 0
        self._closed = False
        self._wrong: list[str] = []
        """Error messages about saved settings with invalid values."""
        page = Gtk.Box(orientation=Gtk.Orientation.VERTICAL, spacing=_BORDER, border_width=_BORDER)
        frames = (self._key(), self._service(), self._edits(), self._kept())
        page.pack_start(self._unusable(frames), False, False, 0)
        for frame in frames:
            page.pack_start(frame, False, False, 0)
        self._window.get_content_area().pack_start(form.scrolled(page), True, True, 0)
        page.show_all()
        self._spinner.hide()
        self._show_key("")
        if _key_place():
            # Move the focus away from the key's field: its placeholder says where the key is saved,
            # and GTK shows a placeholder only in a field without focus.
            self._window.get_widget_for_response(Gtk.ResponseType.CLOSE).grab_focus()
        self._show_address()
        self._show_room()

    def run(self) -> bool:
        """Show the window until the user closes it. Return whether it must be created again."""
        response = Gtk.ResponseType.NONE
        try:
            # Ignore other responses, such as that of the help button: they don't close the window.
            while response not in (
                Gtk.ResponseType.CLOSE,
                Gtk.ResponseType.CANCEL,
                Gtk.ResponseType.DELETE_EVENT,
                _ANEW,
            ):
                response = self._window.run()
            self._keep_address()
            self._closed = True
            self._window.hide()
            # Wait until the worker has saved the key, which would be lost if this process ended.
            while self._working:
                GLib.MainContext.default().iteration(True)
        finally:
            self._window.destroy()
        return bool(response == _ANEW)

    # These methods handle invalid settings.

    def _unusable(self, frames: Sequence[Gtk.Widget]) -> Gtk.Widget:
        """Create the widget that reports invalid settings.

        If the settings file can't be read, the widget has a button that starts with new settings,
        and all `frames` are disabled.
        """
        box = Gtk.Box(orientation=Gtk.Orientation.VERTICAL, spacing=form.GAP)
        note = form.note_label()
        box.pack_start(note, False, False, 0)
        try:
            settings.load()
        except Unusable as error:
            # Disable all fields, because no change could be saved.
            for frame in frames:
                frame.set_sensitive(False)
            form.say(note, str(error))
        else:
            try:
                settings.check_service()
            except Unusable as error:
                self._wrong.append(str(error))
            except UserError:
                # This error is shown below the field of the key or the address.
                pass
            form.say(note, " ".join(dict.fromkeys(self._wrong)))
            return box
        with contextlib.suppress(Unusable):
            storage.home()
            over = Gtk.Button(label=_("Start _Over"), use_underline=True, halign=Gtk.Align.START)
            over.set_tooltip_text(
                _(
                    "Replace the settings with the default settings. The old settings file is kept "
                    "under another name. Afterwards, check the service address and the API key."
                )
            )
            over.connect("clicked", lambda _button: self._start_over())
            box.pack_start(over, False, False, 0)
        return box

    def _start_over(self) -> None:
        try:
            settings.set_aside()
        except OSError as error:
            self._tell(_disk(error))
            return
        self._window.response(_ANEW)

    def _read(self, setting: Callable[[], T], otherwise: T) -> T:
        """Return the value of `setting`, or `otherwise` if the saved value is invalid."""
        try:
            return setting()
        except Unusable as error:
            self._wrong.append(str(error))
            return otherwise

    # These methods show and change the key.

    def _key(self) -> Gtk.Widget:
        grid = form.grid()
        self._key_entry = Gtk.Entry(
            visibility=False, input_purpose=Gtk.InputPurpose.PASSWORD, hexpand=True
        )
        self._save_button = Gtk.Button(label=_("_Save"), use_underline=True)
        self._forget_button = Gtk.Button(label=_("For_get"), use_underline=True)
        self._key_note = form.note_label()
        label = form.add(grid, 0, _("API _key"), self._key_entry)
        self._labels = Gtk.SizeGroup(mode=Gtk.SizeGroupMode.HORIZONTAL)
        self._labels.add_widget(label)
        grid.attach(self._save_button, 2, 0, 1, 1)
        grid.attach(self._forget_button, 3, 0, 1, 1)
        grid.attach(self._key_note, 1, 1, 3, 1)
        self._key_entry.connect("changed", lambda _entry: self._show_key_buttons())
        self._key_entry.connect("activate", lambda _entry: self._save_key())
        self._save_button.connect("clicked", lambda _button: self._save_key())
        self._forget_button.connect("clicked", lambda _button: self._forget_key())
        return form.frame(_("Key"), grid)

    def _show_key(self, note: str) -> None:
        """Show where the key is saved, and `note` as a message below the field of the key."""
        places = {
            settings.ENVIRONMENT: _("Set by DIMILINKS_API_KEY"),
            settings.KEYRING: _("Saved in the system's keyring"),
            settings.FILE: _("Saved in a private file"),
        }
        self._key_entry.set_placeholder_text(places.get(_key_place(), _("None yet")))
        form.say(self._key_note, note)
        self._show_key_buttons()

    def _show_key_buttons(self) -> None:
        ours = not self._working and _key_place() != settings.ENVIRONMENT
        self._key_entry.set_sensitive(ours)
        self._save_button.set_sensitive(ours and bool(self._key_entry.get_text().strip()))
        self._forget_button.set_sensitive(ours and _key_place() != "")

    def _save_key(self, afterwards: Callable[[], None] = lambda: None) -> None:
        try:
            key = settings.check_key(self._key_entry.get_text())
        except UserError as error:
            form.say(self._key_note, str(error))
            return
        if not key:
            return

        def answered(answer: dict[str, Any]) -> None:
            if "key_in" not in answer:
                self._show_key(_sentence(answer))
                return
            self._key_entry.set_text("")
            places = {
                settings.KEYRING: _("The API key was saved in the system's keyring."),
                settings.FILE: _(
                    "No keyring can be used, so the API key is now in a private file that only you "
                    "can read: {path}"
                ).format(path=_key_file()),
            }
            self._show_key(places.get(answer["key_in"], ""))
            afterwards()

        self._ask(["key", "store"], answered, f"{key}\n")
        self._show_key(_("Saving the API key…"))

    def _forget_key(self) -> None:
        def answered(answer: dict[str, Any]) -> None:
            gone = "key_in" in answer
            self._show_key(_("The API key was removed.") if gone else _sentence(answer))

        self._ask(["key", "forget"], answered)
        self._show_key(_("Removing the API key…"))

    # These methods show and change the service address and the route.

    def _service(self) -> Gtk.Widget:
        grid = form.grid()
        self._address = Gtk.ComboBoxText.new_with_entry()
        for address in (*settings.DOCUMENTED_BASE_URLS, settings.SANDBOX):
            self._address.append_text(address)
        self._address.set_hexpand(True)
        self._address_note = form.note_label()
        entry = self._address.get_child()
        entry.set_width_chars(36)
        self._labels.add_widget(form.add(grid, 0, _("_Address"), self._address))
        form.name(entry, _("Address"))
        grid.attach(self._address_note, 1, 1, 1, 1)
        self._route = Gtk.ComboBoxText(halign=Gtk.Align.START)
        self._route.append(settings.EDITS, _("In one go"))
        self._route.append(settings.ASYNC, _("In two steps"))
        self._route_note = form.note_label()
        self._labels.add_widget(form.add(grid, 2, _("_Way of sending"), self._route))
        grid.attach(self._route_note, 1, 3, 1, 1)
        self._test_button = Gtk.Button(label=_("_Test Connection"), use_underline=True)
        self._spinner = Gtk.Spinner(valign=Gtk.Align.CENTER)
        self._test_note = form.note_label()
        row = Gtk.Box(spacing=form.GAP)
        row.pack_start(self._test_button, False, False, 0)
        row.pack_start(self._spinner, False, False, 0)
        row.pack_start(self._test_note, True, True, 0)
        grid.attach(row, 0, 4, 2, 1)
        self._test_button.set_valign(Gtk.Align.START)
        by_environment = settings.service_is_set_by_environment()
        self._address.set_sensitive(not by_environment)
        if not by_environment:
            self._address.connect("changed", self._address_changed)
            entry.connect("activate", lambda _entry: self._keep_address())
            entry.connect("focus-out-event", self._address_left)
        self._show_route()
        self._route.connect("changed", self._route_changed)
        self._test_button.connect("clicked", lambda _button: self._test())
        return form.frame(_("Service"), grid)

    def _show_address(self) -> None:
        by_environment = settings.service_is_set_by_environment()
        try:
            address, note = settings.base_url(), ""
        except UserError as error:
            # Show the invalid address, so that the user can correct it.
            kept = settings.comforts().get("base_url")
            address = kept if isinstance(kept, str) and not by_environment else ""
            note = str(error)
        self._address.get_child().set_text(address)
        if by_environment:
            note = note or _(
                "This is set by the environment variable DIMILINKS_BASE_URL, so it can't be "
                "changed here."
            )
        self._say_of_address(note, address)

    def _address_changed(self, combo: Gtk.ComboBoxText) -> None:
        form.say(self._test_note, "")
        address = combo.get_active_text() or ""
        try:
            note, address = "", settings.check_base_url(address)
        except UserError as error:
            note = str(error)
        self._say_of_address(note, address)
        # Save an address that was chosen from the list. A typed address is saved when the user
        # presses Enter or leaves the field.
        if combo.get_active() >= 0:
            self._keep_address()

    def _say_of_address(self, note: str, address: str) -> None:
        if not note and address == settings.SANDBOX:
            note = _(
                "The sandbox edits on this computer, with simple effects instead of AI. It is "
                "free and needs no key, so you can try everything out."
            )
        form.say(self._address_note, note)

    def _address_left(self, _entry: Gtk.Entry, _event: Gdk.Event) -> bool:
        self._keep_address()
        return False

    def _keep_address(self) -> bool:
        """Save the address if it is valid.

        Return False if the address is invalid or can't be saved, otherwise True.
        """
        if settings.service_is_set_by_environment():
            return True
        try:
            address = settings.check_base_url(self._address.get_active_text() or "")
        except UserError:
            # `_address_changed` already shows the error below the field.
            return False
        kept = settings.comforts().get("base_url") or settings.DOCUMENTED_BASE_URLS[0]
        return address == kept or self._save(base_url=address)

    def _show_route(self) -> None:
        by_environment = settings.route_is_set_by_environment()
        self._route.set_sensitive(not by_environment)
        try:
            self._route.set_active_id(settings.route())
        except UserError as error:
            form.say(self._route_note, str(error))
            return
        note = _route_sentence(settings.route())
        if by_environment:
            why = _(
                "This is set by the environment variable DIMILINKS_ROUTE, so it can't be changed "
                "here."
            )
            note = f"{why} {note}"
        form.say(self._route_note, note)

    def _route_changed(self, combo: Gtk.ComboBoxText) -> None:
        if self._save(route=combo.get_active_id()):
            self._show_route()

    def _test(self) -> None:
        """Save the address and the key from the fields, and test whether edits would work."""
        form.say(self._test_note, "")
        if not self._keep_address():
            return
        if self._key_entry.get_text().strip():
            self._save_key(self._begin_test)
        else:
            self._begin_test()

    def _begin_test(self) -> None:
        def answered(answer: dict[str, Any]) -> None:
            self._spinner.stop()
            self._spinner.hide()
            self._test_button.set_sensitive(True)
            form.say(self._test_note, _sentence(answer))

        self._test_button.set_sensitive(False)
        self._spinner.show()
        self._spinner.start()
        worker_process.ask(["service", "--test"], self._unless_closed(answered))

    # This method shows the settings for edits.

    def _edits(self) -> Gtk.Widget:
        grid = form.grid()
        ceiling = Gtk.ComboBoxText(halign=Gtk.Align.START)
        for tier in TIERS:
            ceiling.append(tier, tier)
        ceiling.set_active_id(self._read(settings.ceiling, ""))
        form.add(grid, 0, _("_Largest automatic resolution"), ceiling)
        explain = Gtk.CheckButton(
            label=_("E_xplain the mask to the service"),
            use_underline=True,
            active=settings.explains_mask(),
        )
        grid.attach(explain, 0, 1, 2, 1)
        line = form.note_label()
        form.say(line, _("Adds this line to the prompt: “{line}”").format(line=settings.MASK_LINE))
        line.set_margin_start(2 * _BORDER)
        grid.attach(line, 0, 2, 2, 1)
        explain.get_accessible().set_description(line.get_text())
        ceiling.connect("changed", lambda box: self._save(ceiling=box.get_active_id()))
        explain.connect("toggled", lambda check: self._save(explain_mask=check.get_active()))
        return form.frame(_("Edits"), grid)

    # These methods show how much the kept edits need, and remove them.

    def _kept(self) -> Gtk.Widget:
        grid = form.grid()
        days = Gtk.SpinButton.new_with_range(0, settings.MOST_KEEP_DAYS, 1)
        days.set_value(self._read(settings.keep_days, 0))
        days.set_halign(Gtk.Align.START)
        form.add(grid, 0, _("Days to kee_p edits on this computer (0 = forever)"), days)
        self._room = form.note_label()
        clear = Gtk.Button(label=_("Clea_r Now…"), use_underline=True)
        row = Gtk.Box(spacing=form.GAP)
        row.pack_start(clear, False, False, 0)
        row.pack_start(self._room, True, True, 0)
        grid.attach(row, 0, 1, 2, 1)
        days.connect("value-changed", lambda spin: self._save(keep_days=spin.get_value_as_int()))
        clear.connect("clicked", lambda _button: self._clear())
        return form.frame(_("Storage"), grid)

    def _show_room(self) -> None:
        try:
            taken = GLib.format_size(history.total_bytes())
        except OSError as error:
            form.say(self._room, _disk(error))
        else:
            form.say(self._room, _("The stored files of edits take up {size}.").format(size=taken))

    def _clear(self) -> None:
        def answered(asking: Gtk.MessageDialog, response: int) -> None:
            asking.destroy()
            if response != Gtk.ResponseType.OK:
                return
            try:
                history.clear(time.time())
            except OSError as error:
                self._tell(_disk(error))
            self._show_room()

        asking = form.message(
            self._window,
            Gtk.MessageType.QUESTION,
            _("Remove the stored files of earlier edits?"),
            _(
                "This removes the prompts, the pictures that were sent, and the results from "
                "this disk. Your images and their layers stay as they are. Edits in progress "
                "are kept. Results that you paid for, but have not put into an image yet, are "
                "kept as well. Save your images first: a result that you undid or did not "
                "save can't be fetched again."
            ),
        )
        asking.add_button(_("_Cancel"), Gtk.ResponseType.CANCEL)
        asking.add_button(_("_Remove"), Gtk.ResponseType.OK)
        asking.set_default_response(Gtk.ResponseType.CANCEL)
        asking.connect("response", answered)
        asking.show()

    # The methods above use these methods.

    def _save(self, **changes: Any) -> bool:
        try:
            settings.save(**changes)
        except OSError as error:
            self._tell(_disk(error))
            return False
        return True

    def _ask(
        self, words: list[str], on_answer: Callable[[dict[str, Any]], None], stdin: str = ""
    ) -> None:
        """Ask the worker to change the key, and call `on_answer` with the worker's answer.

        If the user closes the window meanwhile, `run` still waits for the answer, but `on_answer`
        is not called.
        """
        self._working += 1

        def answered(answer: dict[str, Any]) -> None:
            self._working -= 1
            self._unless_closed(on_answer)(answer)

        worker_process.ask(words, answered, stdin)

    def _unless_closed(
        self, on_answer: Callable[[dict[str, Any]], None]
    ) -> Callable[[dict[str, Any]], None]:
        def answered(answer: dict[str, Any]) -> None:
            if not self._closed:
                on_answer(answer)

        return answered

    def _tell(self, sentence: str) -> None:
        telling = form.message(self._window, Gtk.MessageType.ERROR, sentence, "")
        telling.add_button(_("_OK"), Gtk.ResponseType.OK)
        telling.connect("response", lambda message, _response: message.destroy())
        telling.show()


def _key_place() -> str:
    try:
        return settings.key_place()
    except OSError:
        return ""


def _key_file() -> str:
    try:
        return str(settings.key_file())
    except OSError:
        return ""


def _route_sentence(route: str) -> str:
    if route == settings.EDITS:
        return _(
            "The service sends the result at the end of one long connection. If the "
            "connection breaks, you may lose a result that you were charged for."
        )
    return _(
        "First, the service gives the edit a task number. Then, Dimilinks asks for the result "
        "until it is ready. If the connection breaks, the result can be fetched again. The upload "
        "is a third larger."
    )


def _sentence(answer: dict[str, Any]) -> str:
    return str(answer.get("message", ""))


def _disk(error: OSError) -> str:
    if isinstance(error, Unusable):
        return str(error)
    return _(
        "Settings and edits can't be saved on the disk ({why}). Check that it has free space "
        "and can be written to: {path}"
    ).format(why=error.strerror or error, path=error.filename or "")
