"""The row of an edit in the window. It shows the progress of the edit, and later the results.

The edit was started in this window, or in an earlier window if its job still exists.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from gi.repository import Gdk, Gimp, Gio, GLib, Gtk, Pango

from plugin.errors import UserError, unforeseen
from plugin.gimp import placing, planning, results
from plugin.gimp.canvas.undo import one_step
from plugin.gimp.edit import Edit
from plugin.gimp.edit_status import Button, Facts, Here, Standing, to_collect
from plugin.gimp.process.worker_process import WorkerProcess
from plugin.gimp.translation import _
from plugin.gimp.ui import thumbnails
from plugin.gimp.ui.questions import agreed
from plugin.job import Job, Post, Variation

_SIDE = 76
_USUAL = {"1k": 60, "2k": 120, "4k": 180}
"""The usual duration of an edit at the service, in seconds, by tier."""


class Owner(Protocol):
    """The attributes and methods of the window that a row uses."""

    image: Gimp.Image
    dialog: Gtk.Dialog

    def again(self, prompt: str) -> None:
        """Start an edit with `prompt` and the choices that are now set in the window."""

    def reuse(self, prompt: str) -> None:
        """Put `prompt` into the prompt field, so that the user can change it."""

    def settings(self) -> None:
        """Open the settings window."""


class EditRow(Gtk.Box):
    """The row of one edit.

    `jobs` are the jobs of the edit, one for each edited layer. `edit` is None if an earlier window
    started the edit.
    """

    def __init__(self, owner: Owner, jobs: Sequence[Job], edit: Edit | None = None) -> None:
        super().__init__(orientation=Gtk.Orientation.VERTICAL, spacing=6)
        self._owner = owner
        self._jobs = list(jobs)
        self.edit = edit
        requests = [job.read_request() for job in self._jobs]
        self.prompt, self._created = requests[0].prompt, requests[0].created
        tiers = [each.region.resolution for each in requests if each.region]
        self._usual = max((_USUAL[tier] for tier in tiers), default=_USUAL["1k"])
        self._facts = Facts({})
        self._layers: dict[Variation, Gimp.Layer] = {}
        self._chosen = 0
        self._note = ""
        self._restore: Callable[[], None] | None = None
        self._collecting: WorkerProcess | None = None
        self._drawn: object = None
        title = Gtk.Label(label=planning.shortened(self.prompt), xalign=0)
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
            # The status and the progress bar are only shown when they have content, because empty
            # widgets would leave a gap.
            each.set_no_show_all(each in (self._status, self._bar))
        self.get_accessible().set_name(planning.shortened(self.prompt))
        self.connect("destroy", self._show_after)
        self._find_layers()
        self.update()
        self.show_all()

    @property
    def running(self) -> bool:
        """Whether this window has started the edit and still waits for its end."""
        return self.edit is not None and not self.edit.ended and not self.edit.detached

    @property
    def ids(self) -> set[str]:
        """The ids of the jobs that belong to the edit."""
        return {job.id for job in self._jobs}

    def collect(self, on_end: Callable[[], None], sending: bool = False) -> None:
        """Let a worker get the answers to an edit of an earlier window, then call `on_end`.

        If a worker of the earlier window still works on the job, it is not disturbed. If `sending`
        is true, the worker also sends the variations that were not sent yet.
        """
        (job,) = self._jobs
        if not sending and not any(map(to_collect, self._known().posts.values())):
            on_end()
            return

        def ended() -> None:
            self._collecting = None
            on_end()

        try:
            self._collecting = WorkerProcess(job, lambda _report: None, ended, collect=not sending)
        except UserError as error:
            self._note = str(error)
            on_end()

    def update(self) -> bool:
        """Show the current state of the edit. If none of its jobs exists any more, remove the row.

        Return whether the height of the row may have changed.
        """
        if self.edit is not None:
            for each in self.edit.placed:
                self._layers.setdefault(Variation(each.job.id, each.variation), each.layer)
        if not self._alive():
            self.destroy()
            return False
        self._facts = facts = self._known()
        running = facts.standing is Standing.RUNNING
        text = facts.text()
        self._status.set_text(text)
        self._status.set_visible(bool(text))
        self._bar.set_visible(running)
        self._bar.set_fraction(facts.fraction())
        # Draw the row again only if one of these values has changed. The text is one of them,
        # because a longer text needs more lines. The text of a running edit is left out, because it
        # changes every second.
        told = "" if running else text
        drawn = told, facts.results, facts.there, facts.buttons(), facts.retry_hint()
        if drawn == self._drawn:
            return False
        self._drawn = drawn
        if self.edit is None and facts.standing is Standing.RESULTS:
            # Another window may have put the results into the image in the meantime.
            self._find_layers()
        self._fill_strip()
        self._fill_buttons()
        return True

    # These methods find out the state of the edit.

    def _alive(self) -> bool:
        return any(job.folder.exists() for job in self._jobs)

    def _known(self) -> Facts:
        """Return the current facts about the edit, read from its jobs.

        If a job can't be read, the facts contain an error message for this job.
        """
        posts: dict[Variation, Post] = {}
        messages = []
        for job in self._jobs:
            try:
                state = job.read_state()
            except (OSError, UserError) as error:
                if job.folder.exists():
                    messages.append(str(error))
                continue
            posts.update(
                (Variation(job.id, number), post) for number, post in enumerate(state.posts, 1)
            )
            messages += state.messages
        there = self._owner.image.is_valid()
        return Facts(
            posts,
            self._here(),
            messages,
            self._note,
            frozenset(each for each, layer in self._layers.items() if there and layer.is_valid()),
            self._chosen,
            self._collecting is not None,
            # Each row is updated twice a second, so look at the disk only if the answer matters.
            any(post.may_be_sent for post in posts.values()) and self._is_anothers(),
            time.time() - self._created,
            self._usual,
        )

    def _here(self) -> Here | None:
        edit = self.edit
        if edit is None:
            return None
        since = edit.waiting_since
        return Here(
            edit.ended,
            edit.detached,
            edit.request.replace,
            edit.sentences,
            edit.phase(),
            edit.phase_text(),
            *edit.uploaded(),
            time.monotonic() - since if since else 0,
            [report.percent or 0 for report in edit.reports.values()],
        )

    def _is_there(self, variation: Variation) -> bool:
        return variation in self._facts.there

    def _find_layers(self) -> None:
        """Find the layers in the image that contain results of this edit."""
        if not self._owner.image.is_valid():
            return
        for variation, layer in results.in_image(self._owner.image).items():
            if variation.job_id in self.ids:
                self._layers.setdefault(variation, layer)

    # These methods show the variations and let the user choose one.

    def _fill_strip(self) -> None:
        for child in self._strip.get_children():
            child.destroy()
        shown = self._facts.results
        first: Gtk.RadioButton | None = None
        for index, variation in enumerate(shown):
            button = Gtk.RadioButton.new_from_widget(first)
            first = first or button
            button.set_mode(False)
            picture = thumbnails.of_file(
                self._job(variation).folder / self._facts.posts[variation].placed, _SIDE
            )
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
        """Show the layer of the chosen variation, and hide the layers of the other variations.

        If the chosen variation is not in the image, put it into the image again.
        """
        chosen = self._facts.chosen_result
        others = self._others()
        if chosen is None or not others:
            return
        with one_step(self._owner.image):
            if not self._is_there(chosen):
                self._put_back()
            shown = [self._layers[other] for other in others]
            results.show_alone(self._owner.image, self._layers[chosen], shown)
        Gimp.displays_flush()

    def _others(self) -> list[Variation]:
        """Return the variations that are in the image, without the chosen one."""
        facts = self._facts
        return [
            each for each in facts.results if each in facts.there and each != facts.chosen_result
        ]

    def _job(self, variation: Variation) -> Job:
        return next(job for job in self._jobs if job.id == variation.job_id)

    # These methods add the buttons that fit the state.

    def _fill_buttons(self) -> None:
        # If the user is holding *Compare*, the release of this button would be missed, because the
        # button is removed here.
        self._show_after()
        for child in self._buttons.get_children():
            child.destroy()
        discarded = (
            _("Remove the result layers from the image, and the files of this edit from the disk")
            if self._facts.standing is Standing.RESULTS
            else _("Discard this edit. If it was already sent, you may still be charged.")
        )
        looks: dict[Button, tuple[str, Callable[[], None], str]] = {
            Button.CANCEL: (
                _("Ca_ncel"),
                self._cancel,
                _(
                    "Cancel the edit. If it was already sent, you may be charged, and the result "
                    "is kept."
                ),
            ),
            Button.KEEP_WAITING: (
                _("Keep _Waiting"),
                self._wait,
                _("Put the result into the image when it arrives"),
            ),
            Button.KEEP: (
                _("_Keep"),
                self._keep,
                _("Keep this variation, and remove the others from the image"),
            ),
            Button.PUT_INTO_IMAGE: (
                _("P_ut into Image"),
                self._put_back,
                _("Add the result as a new layer at its original place"),
            ),
            Button.TRY_AGAIN: (_("T_ry Again"), self._retry, self._facts.retry_hint()),
            Button.SETTINGS: (_("_Settings…"), self._owner.settings, ""),
            Button.SHOW_FOLDER: (
                _("S_how Files"),
                self._show_job,
                _("Open the folder with the files of this edit"),
            ),
            Button.DISCARD: (_("_Discard"), self._discard, discarded),
        }
        for button in self._facts.buttons():
            if button is Button.MORE:
                self._add_more()
            elif button is Button.COMPARE:
                self._add_compare()
            else:
                self._add(*looks[button])
        self._buttons.show_all()

    def _add_compare(self) -> None:
        compare = self._add(_("Compare"), None, _("Hold to see the image before the edit"))
        compare.connect("pressed", self._show_before)
        compare.connect("released", self._show_after)
        compare.connect("key-press-event", self._held, self._show_before)
        compare.connect("key-release-event", self._held, self._show_after)
        compare.connect("leave-notify-event", self._show_after)

    def _is_anothers(self) -> bool:
        """Return whether another process, such as another window, is possibly sending the edit."""
        if self.edit is not None:
            return False
        try:
            return any(job.maker_lives() for job in self._jobs)
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
            (_("S_how Files"), self._show_job),
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
            # Call `action` after the signal of the button has ended, because `action` may open a
            # dialog. A dialog inside the signal would keep screen readers waiting.
            button.connect("clicked", lambda _button: GLib.idle_add(self._guarded, action))
        self._buttons.pack_start(button, False, False, 0)
        return button

    def _guarded(self, action: Callable[[], None]) -> None:
        """Call `action`, which the user has chosen, and show its errors in the row."""
        self._facts = self._known()
        try:
            action()
        except UserError as error:
            self._note = str(error)
        except Exception as error:
            self._note = unforeseen(error)
        if self._alive():
            self.update()

    # These methods do what the buttons say.

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
            self.collect(lambda: None, sending=self._facts.is_unsent)

    def _discard(self) -> None:
        if self._facts.may_be_lost:
            question = _("Discard “{prompt}”?").format(prompt=planning.shortened(self.prompt))
            if self._replaced():
                explanation = _(
                    "You may have been charged for this edit. The layer stays as it is, but "
                    "the results will be removed from the disk."
                )
            else:
                explanation = _(
                    "You may have been charged for this edit. Its results will be removed "
                    "from the image and from the disk."
                )
            if not agreed(self._owner.dialog, question, _("_Discard"), explanation):
                return
        if self._owner.image.is_valid() and not self._replaced():
            layers = self._shown_layers()
            if layers:
                results.remove(self._owner.image, layers)
                Gimp.displays_flush()
        if self.edit is not None and not self.edit.ended:
            self.edit.discard()
        for job in self._jobs:
            job.discard()
        self.destroy()

    def _keep(self) -> None:
        chosen = self._facts.chosen_result
        assert chosen is not None
        others = [self._layers[each] for each in self._others()]
        results.keep(self._owner.image, self._layers[chosen], others)
        Gimp.displays_flush()

    def _shown_layers(self) -> list[Gimp.Layer]:
        """Return the layers in the image that contain results of this edit."""
        return [self._layers[each] for each in self._facts.results if self._is_there(each)]

    def _put_back(self) -> None:
        chosen = self._facts.chosen_result
        assert chosen is not None
        if not self._owner.image.is_valid():
            raise UserError(
                _(
                    "The image was closed. Open it again, then choose Filters ▸ Dimilinks ▸ "
                    "Recover Results…."
                )
            )
        (placed,), notes = placing.put_back(self._job(chosen), self._owner.image, chosen.number)
        self._layers[chosen] = placed.layer
        self._note = " ".join(notes)
        Gimp.displays_flush()

    def _show_job(self) -> None:
        folder = next(job.folder for job in self._jobs if job.folder.exists())
        try:
            Gio.AppInfo.launch_default_for_uri(Path(folder).as_uri(), None)
        except GLib.Error:
            self._note = _(
                "The folder of this edit could not be opened. Open it yourself: {folder}"
            ).format(folder=folder)

    def _replaced(self) -> bool:
        return self.edit is not None and self.edit.request.replace

    def _show_before(self, _button: Gtk.Button) -> None:
        if self._restore is not None or not self._owner.image.is_valid():
            return
        if self._replaced():
            assert self.edit is not None
            self._restore = results.lay_sources_over(self.edit.captures)
        else:
            layers = self._shown_layers()
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


def _when(created: float) -> str:
    """Return the creation time of an edit in the format of the user's locale.

    `created` is in seconds since 1970. Return "" if it is 0, which means unknown.
    """
    if not created:
        return ""
    moment = GLib.DateTime.new_from_unix_local(int(created))
    return str(moment.format("%x %H:%M"))
