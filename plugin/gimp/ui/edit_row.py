"""The row of an edit in the window: its progress while it runs, and its results afterwards.

A row shows an edit of this window, or an edit of an earlier window whose job still exists.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from gi.repository import Gdk, Gimp, Gio, GLib, Gtk, Pango

from plugin.gimp import capture, placing, results
from plugin.gimp.edit import Edit
from plugin.gimp.messages import EditError, _, unforeseen
from plugin.gimp.ui import thumbnails
from plugin.gimp.ui.messages import agreed
from plugin.gimp.undo import one_step
from plugin.gimp.worker_process import WorkerProcess
from plugin.job import (
    ACCEPTED,
    FAILED,
    PREPARED,
    RECEIVED,
    SENT,
    Job,
    Kind,
    Post,
)

_SIDE = 76
_USUAL = {"1k": 60, "2k": 120, "4k": 180}
"""The usual duration of an edit at the service, in seconds, by tier."""
_GIVEN_UP = 20 * 60
"""Seconds after which an answer is no longer expected."""


class Owner(Protocol):
    """What a row needs from its window."""

    image: Gimp.Image
    dialog: Gtk.Dialog

    def again(self, prompt: str) -> None:
        """Start an edit with this prompt and the current choices."""

    def reuse(self, prompt: str) -> None:
        """Put this prompt into the field, so that it can be changed."""

    def settings(self) -> None:
        """Open the settings."""


class EditRow(Gtk.Box):
    """The row of one edit. `edit` is None for an edit of an earlier window."""

    def __init__(self, owner: Owner, jobs: Sequence[Job], edit: Edit | None = None) -> None:
        super().__init__(orientation=Gtk.Orientation.VERTICAL, spacing=6)
        self._owner = owner
        self._jobs = list(jobs)
        self.edit = edit
        requests = [job.request for job in self._jobs]
        self.prompt, self._created = requests[0].prompt, requests[0].created
        tiers = [each.region.resolution for each in requests if each.region]
        self._usual = max((_USUAL[tier] for tier in tiers), default=_USUAL["1k"])
        self._posts: list[tuple[Job, int, Post]] = []
        self._messages: list[str] = []
        """The messages of the jobs on failures."""
        self._layers: dict[tuple[str, int], Gimp.Layer] = {}
        self._chosen = 0
        self._note = ""
        self._restore: Callable[[], None] | None = None
        self._collecting: WorkerProcess | None = None
        self._drawn: object = None
        title = Gtk.Label(label=capture.shortened(self.prompt), xalign=0)
        title.set_ellipsize(Pango.EllipsizeMode.END)
        title.set_tooltip_text(f"{self.prompt}\n{_when(self._created)}".rstrip())
        bold = Pango.AttrList()
        bold.insert(Pango.attr_weight_new(Pango.Weight.BOLD))
        title.set_attributes(bold)
        self._status = Gtk.Label(xalign=0, wrap=True, selectable=False)
        self._status.set_line_wrap_mode(Pango.WrapMode.WORD_CHAR)
        self._status.set_max_width_chars(40)
        self._bar = Gtk.ProgressBar()
        self._bar.get_accessible().set_name(_("Progress"))
        self._strip = Gtk.Box(spacing=6)
        self._buttons = Gtk.Box(spacing=6)
        for each in (title, self._status, self._bar, self._strip, self._buttons):
            self.pack_start(each, False, False, 0)
            # Empty widgets would leave a gap, so these two are only shown when needed.
            each.set_no_show_all(each in (self._status, self._bar))
        self.get_accessible().set_name(capture.shortened(self.prompt))
        self.connect("destroy", self._show_after)
        self._find_layers()
        self.update()
        self.show_all()

    @property
    def running(self) -> bool:
        """Whether the window waits for the edit."""
        return self.edit is not None and not self.edit.ended and not self.edit.detached

    @property
    def ids(self) -> set[str]:
        """The ids of the jobs of the edit."""
        return {job.id for job in self._jobs}

    def collect(self, on_end: Callable[[], None], sending: bool = False) -> None:
        """Let a worker finish what an earlier window has sent, and call `on_end` afterwards.

        If a worker is still working on the job, it continues. With `sending`, what was not sent yet
        is sent.
        """
        (job,) = self._jobs
        self._look()
        if not sending and not any(_to_collect(post) for _job, _number, post in self._posts):
            on_end()
            return

        def ended() -> None:
            self._collecting = None
            on_end()

        try:
            self._collecting = WorkerProcess(job, lambda _report: None, ended, collect=not sending)
        except EditError as error:
            self._note = str(error)
            on_end()

    def update(self) -> bool:
        """Show the current state, and return whether the row's layout may have changed.

        If the jobs don't exist any more, remove the row.
        """
        if self.edit is not None:
            for each in self.edit.placed:
                self._layers.setdefault((each.job.id, each.variation), each.layer)
        if not self._alive():
            self.destroy()
            return False
        self._look()
        kind = self._kind()
        self._status.set_text(self._status_text(kind))
        self._status.set_visible(bool(self._status.get_text()))
        self._bar.set_visible(kind == "running")
        if kind == "running":
            self._show_progress()
        keys = self._results_key()
        there = [self._is_there(key) for key in keys]
        # A longer message needs more lines. That of a running edit is left out, as it counts
        # seconds.
        told = "" if kind == "running" else self._status.get_text()
        drawn = kind, told, keys, there, self._is_there(self._chosen_key()), self._retry_hint()
        if drawn == self._drawn:
            return False
        self._drawn = drawn
        if self.edit is None and kind == "results":
            # Another window may have put the results into the image.
            self._find_layers()
        self._fill_strip()
        self._fill_buttons(kind)
        return True

    # State

    def _alive(self) -> bool:
        return any(job.folder.exists() for job in self._jobs)

    def _look(self) -> None:
        """Read the states of the jobs. Jobs that can't be read add messages instead."""
        self._posts, self._messages = [], []
        for job in self._jobs:
            try:
                state = job.state
            except (OSError, ValueError) as error:
                if job.folder.exists():
                    self._messages.append(str(error))
                continue
            self._posts += [(job, number, post) for number, post in enumerate(state.posts, 1)]
            self._messages += state.messages

    def _results(self) -> list[tuple[Job, int, Post]]:
        return [each for each in self._posts if each[2].placed]

    def _results_key(self) -> list[tuple[str, int]]:
        return [(job.id, number) for job, number, _post in self._results()]

    def _chosen_key(self) -> tuple[str, int]:
        keys = self._results_key()
        return keys[min(self._chosen, len(keys) - 1)] if keys else ("", 0)

    def _is_there(self, key: tuple[str, int]) -> bool:
        layer = self._layers.get(key)
        return layer is not None and layer.is_valid() and self._owner.image.is_valid()

    def _find_layers(self) -> None:
        """Find the results that are in the image from earlier edits."""
        if not self._owner.image.is_valid():
            return
        for key, layer in results.in_image(self._owner.image).items():
            if key[0] in self.ids:
                self._layers.setdefault(key, layer)

    def _kind(self) -> str:
        if self.running:
            return "running"
        if self.edit is not None and not self.edit.ended:
            return "left"
        if self._results_key():
            return "results"
        if self._collecting:
            return "left"
        sent = [post for _job, _number, post in self._posts if post.state in (SENT, ACCEPTED)]
        if self.edit is not None or all(post.message for post in sent):
            return "failed"
        # A worker of another window may still be working on it.
        return "left" if time.time() - self._created < _GIVEN_UP else "unknown"

    # Texts

    def _status_text(self, kind: str) -> str:
        if kind == "running":
            assert self.edit is not None
            text = self.edit.phase_text()
            if self.edit.phase() == "waiting" and self.edit.waiting_since:
                elapsed = time.monotonic() - self.edit.waiting_since
                text = _("{phase}: {elapsed} (usually {usual})").format(
                    phase=text, elapsed=_clock(elapsed), usual=_clock(self._usual)
                )
            ready = len(self._results_key())
            total = len(self._posts)
            if total > 1:
                text += " " + _("({ready} of {total} ready)").format(ready=ready, total=total)
            return text
        if kind == "left" and self.edit is None:
            return _("It was sent and is under way: the result will be kept and shown here.")
        if kind == "left":
            return _(
                "You stopped waiting, but it was sent and is paid for: the result will be kept "
                "and shown here."
            )
        if kind == "unknown":
            return _(
                "It was sent, and no answer came. It may have been made and billed, so it is not "
                "sent again by itself: look at your account, then decide."
            )
        if kind == "failed":
            sentences = self.edit.sentences if self.edit is not None else []
            told = dict.fromkeys([*(sentences or self._messages), self._note])
            return " ".join(filter(None, told)) or _("It was not sent.")
        sentences = list(self._messages if self.edit is None else self.edit.sentences)
        if self._note:
            sentences.append(self._note)
        elif not any(self._is_there(key) for key in self._results_key()):
            sentences.append(_("Not in this image."))
        return " ".join(sentences)

    def _show_progress(self) -> None:
        assert self.edit is not None
        phase = self.edit.phase()
        if phase == "uploading":
            sent, total = self.edit.uploaded()
            self._bar.set_fraction(0.1 * sent / max(1, total))
        elif phase == "waiting" and self.edit.waiting_since:
            known = [r.get("progress") or 0 for r in self.edit.reports.values()]
            share = (time.monotonic() - self.edit.waiting_since) / self._usual
            # Approach the end more and more slowly, so that the bar is never full too early.
            guess = share / (share + 0.5)
            self._bar.set_fraction(0.1 + 0.85 * max(guess, min(known) / 100))
        elif phase in ("downloading", "placing"):
            self._bar.set_fraction(0.97)
        else:
            self._bar.set_fraction(0)

    # Variations

    def _fill_strip(self) -> None:
        for child in self._strip.get_children():
            child.destroy()
        shown = self._results()
        first: Gtk.RadioButton | None = None
        for index, (job, _number, post) in enumerate(shown):
            button = Gtk.RadioButton.new_from_widget(first)
            first = first or button
            button.set_mode(False)
            picture = thumbnails.of_file(job.folder / post.placed, _SIDE)
            image = Gtk.Image.new_from_icon_name("image-missing", Gtk.IconSize.DIALOG)
            if picture is not None:
                image.set_from_pixbuf(picture)
            button.add(image)
            name = _("Variation {number}").format(number=index + 1)
            button.get_accessible().set_name(name)
            button.set_tooltip_text(
                _("Show only {variation} in the image").format(variation=name)
                if len(shown) > 1
                else name
            )
            button.set_active(index == self._chosen)
            button.connect("clicked", self._choose, index)
            self._strip.pack_start(button, False, False, 0)
        self._strip.show_all()
        self._strip.set_visible(bool(shown))

    def _choose(self, button: Gtk.RadioButton, index: int) -> None:
        if not button.get_active():
            return
        self._chosen = index
        self._guarded(self._show_chosen)
        self.update()

    def _show_chosen(self) -> None:
        """Show only the chosen variation, and put it into the image again if it is not there."""
        key = self._chosen_key()
        others = [each for each in self._results_key() if each != key and self._is_there(each)]
        if not others:
            return
        with one_step(self._owner.image):
            if not self._is_there(key):
                self._put_back()
            shown = [self._layers[other] for other in others]
            results.show_alone(self._owner.image, self._layers[key], shown)
        Gimp.displays_flush()

    # Buttons

    def _fill_buttons(self, kind: str) -> None:
        # The button may have been held to compare, and is removed here.
        self._show_after()
        for child in self._buttons.get_children():
            child.destroy()
        if kind == "running":
            self._add(_("Ca_ncel"), self._cancel, _("What was sent already is paid for and kept"))
        elif kind == "left":
            if self.edit is not None:
                self._add(
                    _("Keep _Waiting"), self._wait, _("Put it into the image when it arrives")
                )
            self._add(
                _("_Discard"), self._discard, _("Stop it for good; what was sent stays paid for")
            )
        elif kind == "results":
            self._add_result_buttons()
        else:
            self._add_failure_buttons()
        self._buttons.show_all()

    def _add_result_buttons(self) -> None:
        if self._is_there(self._chosen_key()):
            compare = self._add(_("Compare"), None, _("Hold to see the image as it was before"))
            compare.connect("pressed", self._show_before)
            compare.connect("released", self._show_after)
            compare.connect("key-press-event", self._held, self._show_before)
            compare.connect("key-release-event", self._held, self._show_after)
            compare.connect("leave-notify-event", self._show_after)
            others = [key for key in self._results_key() if key != self._chosen_key()]
            if any(self._is_there(key) for key in others) and not self._replaced():
                self._add(_("_Keep"), self._keep, _("Take the other variations out of the image"))
        else:
            self._add(_("P_ut into Image"), self._put_back, _("As a new layer, in its old place"))
        self._add_retry()
        self._add(_("_Discard"), self._discard, _("Out of the image, and off the disk"))
        self._add_more()

    def _add_failure_buttons(self) -> None:
        self._add_retry()
        kinds = {post.kind for _job, _number, post in self._posts}
        if kinds & {Kind.SETUP, Kind.REFUSED, Kind.PENDING}:
            self._add(_("_Settings…"), self._owner.settings)
        self._add(_("Show the _Job"), self._show_job, _("Its folder, with all that is known"))
        self._add(_("_Discard"), self._discard)
        self._add_more()

    def _add_retry(self) -> None:
        if hint := self._retry_hint():
            self._add(_("T_ry Again"), self._retry, hint)

    def _retry_hint(self) -> str:
        """Return what a retry would cost, or "" if nothing can be retried."""
        posts = [post for _job, _number, post in self._posts]
        asked = not self._collecting and any(post.recoverable for post in posts)
        sent = any(_to_be_sent(post) for post in posts) and not self._is_anothers()
        if asked and sent:
            return _("What was paid for is asked for again, at no cost; the rest is sent again")
        if asked:
            return _("What was paid for is asked for again, at no cost")
        return _("Nothing was paid for so far") if sent else ""

    def _is_anothers(self) -> bool:
        """Return whether another process may be about to send it, or a worker of this row is."""
        if self.edit is not None:
            return False
        try:
            return self._collecting is not None or any(job.maker_lives() for job in self._jobs)
        except OSError:
            return True

    def _add_more(self) -> None:
        more = Gtk.MenuButton()
        more.add(Gtk.Image.new_from_icon_name("view-more-symbolic", Gtk.IconSize.BUTTON))
        more.get_accessible().set_name(_("More"))
        more.set_tooltip_text(_("More"))
        menu = Gtk.Menu()
        for label, action in (
            (_("_Edit Again"), lambda: self._owner.again(self.prompt)),
            (_("_Reuse the Prompt"), lambda: self._owner.reuse(self.prompt)),
            (_("Show the _Job"), self._show_job),
        ):
            item = Gtk.MenuItem(label=label, use_underline=True)
            item.connect("activate", lambda _item, action=action: GLib.idle_add(action))
            menu.append(item)
        menu.show_all()
        more.set_popup(menu)
        self._buttons.pack_end(more, False, False, 0)

    def _add(self, label: str, action: Callable[[], None] | None, hint: str = "") -> Gtk.Button:
        button = Gtk.Button(label=label, use_underline=True)
        if hint:
            button.set_tooltip_text(hint)
        if action is not None:
            # Don't ask inside the signal, where a dialog's main loop would keep screen readers
            # waiting.
            button.connect("clicked", lambda _button: GLib.idle_add(self._guarded, action))
        self._buttons.pack_start(button, False, False, 0)
        return button

    def _guarded(self, action: Callable[[], None]) -> None:
        """Perform an action of the user, and show errors in the row."""
        self._look()
        try:
            action()
        except EditError as error:
            self._note = str(error)
        except Exception as error:
            self._note = unforeseen(error)
        if self._alive():
            self.update()

    # Actions

    def _cancel(self) -> None:
        assert self.edit is not None
        self.edit.cancel()

    def _wait(self) -> None:
        assert self.edit is not None
        self.edit.wait_again()

    def _retry(self) -> None:
        self._note = ""
        if self.edit is not None:
            self.edit.start()
        else:
            unsent = any(_to_be_sent(post) for _job, _number, post in self._posts)
            self.collect(lambda: None, sending=unsent and not self._is_anothers())

    def _discard(self) -> None:
        if self._kind() == "left" or any(_is_paid_for(post) for _job, _number, post in self._posts):
            question = _("Discard “{prompt}”?").format(prompt=capture.shortened(self.prompt))
            if self._replaced():
                explanation = _(
                    "It is paid for. The layer stays as it is; the results go off the disk."
                )
            else:
                explanation = _("It is paid for. Its results go out of the image and off the disk.")
            if not agreed(self._owner.dialog, question, _("_Discard"), explanation):
                return
        if self._owner.image.is_valid() and not self._replaced():
            layers = [self._layers[key] for key in self._results_key() if self._is_there(key)]
            if layers:
                results.remove(self._owner.image, layers)
                Gimp.displays_flush()
        if self.edit is not None and not self.edit.ended:
            self.edit.discard()
        for job in self._jobs:
            job.discard()
        self.destroy()

    def _keep(self) -> None:
        others = [
            self._layers[key]
            for key in self._results_key()
            if key != self._chosen_key() and self._is_there(key)
        ]
        results.keep(self._owner.image, self._layers[self._chosen_key()], others)
        Gimp.displays_flush()

    def _put_back(self) -> None:
        key = self._chosen_key()
        (job,) = [job for job in self._jobs if job.id == key[0]]
        if not self._owner.image.is_valid():
            raise EditError(
                _("The image was closed: open it again, then this window from its menu.")
            )
        (placed,), notes = placing.put_back(job, self._owner.image, key[1])
        self._layers[key] = placed.layer
        self._note = " ".join(notes)
        Gimp.displays_flush()

    def _show_job(self) -> None:
        folder = next(job.folder for job in self._jobs if job.folder.exists())
        try:
            Gio.AppInfo.launch_default_for_uri(Path(folder).as_uri(), None)
        except GLib.Error:
            self._note = _("Its folder is {folder}").format(folder=folder)

    def _replaced(self) -> bool:
        return self.edit is not None and self.edit.request.replace

    def _show_before(self, _button: Gtk.Button) -> None:
        if self._restore is not None or not self._owner.image.is_valid():
            return
        if self._replaced():
            assert self.edit is not None
            self._restore = results.lay_sources_over(self.edit.captures)
        else:
            layers = [self._layers[key] for key in self._results_key() if self._is_there(key)]
            self._restore = results.hide(self._owner.image, layers)
        Gimp.displays_flush()

    def _show_after(self, *_signal: object) -> bool:
        if self._restore is not None:
            restore, self._restore = self._restore, None
            restore()
            Gimp.displays_flush()
        return False

    def _held(
        self, button: Gtk.Button, event: Gdk.EventKey, action: Callable[[Gtk.Button], object]
    ) -> bool:
        if event.keyval in (Gdk.KEY_space, Gdk.KEY_Return):
            action(button)
            return True
        return False


def _to_be_sent(post: Post) -> bool:
    """Return whether it may be sent: it was not sent before, or surely cost nothing."""
    return post.state == PREPARED or post.may_be_sent_again


def _to_collect(post: Post) -> bool:
    """Return whether a worker can still get something of what was sent."""
    return post.state in (SENT, ACCEPTED) or post.recoverable


def _is_paid_for(post: Post) -> bool:
    """Return whether something that was paid for is there, or can still be fetched."""
    return bool(post.result or post.placed or post.answer) or _to_collect(post)


def unfinished(job: Job) -> bool:
    """Return whether an earlier window has left something in a job that the user may want."""
    try:
        return _reached(job, SENT, ACCEPTED) or (_reached(job, RECEIVED) and bool(job.unimported))
    except (OSError, ValueError):
        return False


def has_something(job: Job) -> bool:
    """Return whether a job should get a row.

    A damaged job gets none. A job that was not sent gets one if the process that created it is
    gone.
    """
    try:
        return _reached(job, RECEIVED, SENT, ACCEPTED, FAILED) or (
            _reached(job, PREPARED) and not job.maker_lives()
        )
    except OSError:
        return False


def _reached(job: Job, *states: str) -> bool:
    """Return whether a job can be read and any of its variations has one of these states."""
    try:
        return bool(job.request.prompt) and any(post.state in states for post in job.state.posts)
    except (OSError, ValueError):
        return False


def _when(created: float) -> str:
    """Return the creation time in the format of the user's locale, or "" if it is unknown."""
    if not created:
        return ""
    moment = GLib.DateTime.new_from_unix_local(int(created))
    return str(moment.format("%x %H:%M"))


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes}:{rest:02d}"
