"""A GIMP in a window, and edits during which a user acts."""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import skimage
from gui_service import use_service
from gui_window import INSIDE, PATIENCE, PLUG_IN, Remote, Window, until

from installer.private.host import PrivateGimp
from meanwhile.cases import SIZES, Case, Deed
from meanwhile.service import ANSWERS, Answers
from plugin import settings

_LAST_LINES = 10
"""The number of lines of GIMP's output that are reported if the plug-in is gone."""
KEYS = {"undo": "ctrl+z", "redo": "ctrl+y"}


@dataclass
class Lengths:
    """The seconds that an undisturbed edit takes, and those of its phases."""

    capture: float
    placing: float
    total: float


class Desk:
    """A context manager for a GIMP in a window, the processes of `inside/hands.py`, and a service.

    `start_again` replaces a GIMP that has crashed or hangs.
    """

    window: Window

    def __init__(self, series: str) -> None:
        self.series = series
        self.starting = 0.0
        """The seconds that the plug-in takes to start and to notice that there is no prompt."""
        self.firsts: dict[tuple[str, ...], dict[str, Any]] = {}
        """The states of images right after they were opened, by size, precision and selection."""
        self._lengths: dict[tuple[str, ...], Lengths] = {}
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Desk:
        with contextlib.ExitStack() as stack:
            self._folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="desk-")))
            # Many gigabytes are written to this folder.
            memory = "/dev/shm" if Path("/dev/shm").is_dir() else None
            self.kept = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=memory)))
            self.service = stack.enter_context(contextlib.closing(Answers()))
            self._gimp = stack.enter_context(PrivateGimp(self.series, [self._folder, self.kept]))
            hands = self._gimp.profile / "plug-ins" / "tests-hands" / "tests-hands.py"
            hands.parent.mkdir()
            hands.write_text(
                "#!/usr/bin/env python3\n"
                f"import sys\nsys.path.insert(0, {str(INSIDE)!r})\nimport hands\nhands.main()\n"
            )
            hands.chmod(0o755)
            self._start()
            stack.callback(self._end)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def version(self) -> str:
        """GIMP's full version."""
        return self._gimp.gimp.version

    def _start(self) -> None:
        folder = Path(tempfile.mkdtemp(dir=self._folder))
        self.window = Window(self._gimp, folder, {"TESTS_HANDS": str(folder)})
        self._hands: list[Remote] = []
        try:
            for name in ("watcher", "user", "editor-1", "editor-2"):
                until(lambda name=name: (folder / name).exists(), f"the {name}")
                self._hands.append(Remote(folder / name))
            self.watcher, self.user, *self.editors = self._hands
            self.choose("new-layer")
        except BaseException:
            self._end()
            raise

    def _end(self) -> None:
        with contextlib.suppress(OSError, RuntimeError):
            for watcher in self._hands[:1]:
                watcher.close_images(displays=[])
        for hand in self._hands:
            hand.dismiss()
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            self.window.close()
        shutil.rmtree(self.window.folder, ignore_errors=True)

    @property
    def alive(self) -> bool:
        """Whether GIMP still answers."""
        try:
            self.watcher.images()
        except OSError:
            return False
        return True

    def start_again(self) -> None:
        """End GIMP, and start a new one."""
        self._end()
        self._start()

    def choose(self, output: str, use_selection: bool = True) -> None:
        """Set the choices with which the dialog opens next."""
        with _environ(DIMILINKS_HOME=str(self.window.home)):
            use_service(self.window, self.service.base_url)
            choices = {"output": output, "variations": 1, "repair": False}
            choices["use-selection"] = use_selection
            settings.save(prompt="magenta", prompts=["magenta"], choices=choices)

    def photograph(self, size: str) -> Path:
        """Return the file of a photograph of a size. It is enlarged, and has some grain."""
        path = self._folder / f"{size}.png"
        if not path.exists():
            with PIL.Image.open(Path(skimage.data_dir) / "coffee.png") as picture:
                large = picture.convert("RGB").resize(SIZES[size], PIL.Image.Resampling.BICUBIC)
            pixels = np.asarray(large).astype(np.int16)
            # No pixel may be as bright as the answers.
            grain = np.random.default_rng(7).integers(-5, 6, pixels.shape, np.int16)
            pixels = np.clip(pixels + grain, 0, 235).astype(np.uint8)
            PIL.Image.fromarray(pixels).save(path, compress_level=1)
        return path

    def begun(self) -> list[Path]:
        """Return the folders of all jobs, also of incomplete ones."""
        return [path for path in self.window.home.glob("jobs/*") if path.is_dir()]

    def jobs(self) -> list[Path]:
        """Return the folders of all complete jobs."""
        return [path.parent for path in self.window.home.glob("jobs/[!.]*/request.json")]

    def lengths(self, case: Case) -> Lengths:
        """Return how long such an edit takes if it is undisturbed, and made by the procedure."""
        key = (case.size, case.precision, case.output, case.selection)
        if not self.starting:
            # The first edit takes longer, so it doesn't count.
            self._undisturbed(Case(0, "2 MP", "new-layer", "rectangle", (), ("any", 0)))
            image, _twin, display = self.watcher.open_image(
                path=str(self.photograph("2 MP")), precision="u8", selection="none"
            )
            took = []
            for _time in range(3):
                began = time.monotonic()
                self.editors[0].edit(image=image, prompt="")
                took.append(time.monotonic() - began)
            self.starting = min(took)
            self.watcher.close_images(displays=[display])
        if key not in self._lengths:
            self._lengths[key] = self._undisturbed(replace(case, deeds=(), route="procedure"))
        return self._lengths[key]

    def _undisturbed(self, case: Case) -> Lengths:
        run = edited(self, case, Lengths(0, 0, 0))
        self.watcher.close_images(displays=run.displays)
        (edit,) = run.edits
        assert edit.status == "success", edit
        return Lengths(
            run.captured - run.begun[0], edit.ended - run.placed, edit.ended - edit.began
        )


@contextlib.contextmanager
def _environ(**values: str) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@dataclass
class Edit:
    """An edit. Its times are those of the monotonic clock."""

    prompt: str
    output: str
    began: float
    ended: float = 0.0
    status: str = ""
    """The status of the call. In the window, it is *told* after new messages, or else *success*."""
    message: str = ""


@dataclass
class Done:
    """A deed, and whether it worked."""

    deed: Deed
    began: float
    worked: bool


@dataclass
class Run:
    """What was recorded while the edits were made."""

    image: int
    twin: int
    displays: list[int]
    edits: list[Edit] = field(default_factory=list)
    done: list[Done] = field(default_factory=list)
    begun: list[float] = field(default_factory=list)
    """When the first file of each job was written, on the monotonic clock."""
    captured: float = 0.0
    """When the first job was complete, or 0 if it never was."""
    placed: float = 0.0
    """When the first fitted result was on the disk, or 0 if it never was."""
    died: list[str] = field(default_factory=list)

    def did(self, *names: str) -> list[Done]:
        """Return the deeds with these names that worked."""
        return [each for each in self.done if each.worked and each.deed[0] in names]

    @property
    def closed(self) -> bool:
        return bool(self.did("close"))


def edited(desk: Desk, case: Case, lengths: Lengths) -> Run:
    """Make the edit of a case with all that the user does meanwhile. The image stays open."""
    window = desk.window
    # Remove also the incomplete jobs of killed plug-ins.
    for job in desk.begun():
        shutil.rmtree(job)
    desk.service.posts.clear()
    log = window.folder / "log"
    logged = log.stat().st_size
    image, twin, display = desk.watcher.open_image(
        path=str(desk.photograph(case.size)), precision=case.precision, selection=case.selection
    )
    until(lambda: f"-{image}." in window.desk.active_window(), "the image in the window")
    run = Run(image, twin, [display])
    texts: set[str] = set()
    if case.route == "window":
        desk.choose(case.output, case.selection != "none")
        window.open_dialog()
        texts = _texts(window)
    if case.moment[0] == "waiting":
        desk.service.go.clear()
    with _watched(desk, run):
        calls: list[threading.Thread] = []
        try:
            if case.route == "window":
                window.press_in_dialog("Edit")
                run.edits.append(Edit("magenta", case.output, time.monotonic()))
            else:
                calls.append(_call(desk, run, case.output))
            _act(desk, case, run, lengths, calls)
        finally:
            desk.service.go.set()
            for call in calls:
                call.join(4 * PATIENCE)
        if any(call.is_alive() for call in calls):
            raise TimeoutError("an edit never ended")
        if case.route == "window":
            _wait_for_the_window(window)
            run.edits[0].ended = time.monotonic()
    windows = (case.route == "window") + len(run.did("second window"))
    if desk.alive and not run.did("kill"):
        with contextlib.suppress(TimeoutError):
            until(lambda: len(window.plug_in()) == windows, "the windows", 5)
        if len(window.plug_in()) < windows:
            run.died.append("the window's plug-in is gone")
    if case.route == "window" and desk.alive:
        told = sorted(_texts(window) - texts)
        run.edits[0].status = "told" if told else "success"
        run.edits[0].message = " ".join(told)
    _close_windows(desk)
    with log.open("rb") as file:
        file.seek(logged)
        said = file.read().decode("utf-8", "replace")
    if run.died:
        run.died += said.splitlines()[-_LAST_LINES:]
    for word in ("crashed", "fatal", "core dumped", "Segmentation fault"):
        if word in said and not run.did("kill"):
            run.died.append(next(line for line in said.splitlines() if word in line))
    for edit in run.edits:
        dead = ("crashed", "Traceback", "returned no return values")
        if not run.did("kill") and any(words in edit.message for words in dead):
            run.died.append(edit.message)
    return run


def _act(desk: Desk, case: Case, run: Run, lengths: Lengths, calls: list[threading.Thread]) -> None:
    """Do the deeds of the user from the moment on. Calls for further edits are added to `calls`."""
    if case.deeds:
        _wait_for(case.moment, desk, case, run, lengths)
    for (name, values), pause in zip(case.deeds, case.pauses or itertools.repeat(0.0)):
        time.sleep(pause)
        if name == "wait for":
            if values["phase"] != "both":
                desk.service.go.set()
            _wait_for((values["phase"], values["share"]), desk, case, run, lengths)
        else:
            began = time.monotonic()
            run.done.append(Done((name, values), began, _do(desk, run, calls, (name, values))))


def _call(desk: Desk, run: Run, output: str) -> threading.Thread:
    """Call the procedure in a thread, and return the thread."""
    prompt = list(ANSWERS)[len(run.edits)]
    edit = Edit(prompt, output, time.monotonic())
    editor = desk.editors[len(run.edits)]
    run.edits.append(edit)

    def call() -> None:
        try:
            edit.status, edit.message = editor.edit(
                image=run.image, prompt=prompt, output=output, repair=False
            )
        except (OSError, RuntimeError) as error:
            edit.status, edit.message = "no answer", str(error)
        edit.ended = time.monotonic()

    thread = threading.Thread(target=call)
    thread.start()
    return thread


@contextlib.contextmanager
def _watched(desk: Desk, run: Run) -> Iterator[None]:
    """Record when each job is begun, and when the first is complete and has a fitted result."""
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(0.002):
            if len(desk.begun()) > len(run.begun):
                run.begun.append(time.monotonic())
            if not run.captured and desk.jobs():
                run.captured = time.monotonic()
            if not run.placed and any(desk.window.home.glob("jobs/[!.]*/placed-1.png")):
                run.placed = time.monotonic()

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _wait_for(
    moment: tuple[str, float], desk: Desk, case: Case, run: Run, lengths: Lengths
) -> None:
    """Wait for a moment of the edit, or for its end."""
    phase, share = moment
    first = run.edits[0]
    # In the window, the plug-in has already started.
    total = lengths.total - (desk.starting if case.route == "window" else 0.0)

    def reached() -> bool:
        now = time.monotonic()
        if first.ended or (phase == "both" and run.edits[-1].ended):
            return True
        if phase == "capture":
            return bool(run.begun) and now >= run.begun[0] + share * lengths.capture
        if phase == "waiting":
            return bool(desk.service.posts)
        if phase == "both":
            return len(desk.service.posts) > 1
        if phase == "placing":
            return bool(run.placed) and now >= run.placed + share * lengths.placing
        return now >= first.began + share * total

    # An edit in the window may have failed, and its end is not recorded yet.
    with contextlib.suppress(TimeoutError):
        until(reached, phase, PATIENCE + 3 * total, pause=0.001)


def _do(desk: Desk, run: Run, calls: list[threading.Thread], deed: Deed) -> bool:
    """Do a deed of the user, and return whether it worked."""
    name, values = deed
    window = desk.window
    if name in ("undo", "redo"):
        window.key(KEYS[name])
        return True
    if name == "close":
        desk.user.close(displays=run.displays)
        return True
    if name == "view":
        run.displays.append(desk.user.view(image=run.image))
        return True
    if name == "kill":
        killed = window.plug_in()
        for process in killed:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        return bool(killed)
    if name == "second window":
        # In GIMP 3.0, the item can be pressed although nothing happens: without a layer, and
        # sometimes after another layer was deleted or another view was closed. Therefore, wait for
        # a new process of the plug-in.
        before = set(window.plug_in())
        with contextlib.suppress(RuntimeError, TimeoutError):
            if window.desk.press(app="gimp", role="menu item", name="Edit with AI…"):
                until(lambda: not before.issuperset(window.plug_in()), "the second window", 5)
                return desk.user.chosen(image=run.image)
        return False
    if name == "edit again":
        if len(run.edits) < len(desk.editors):
            calls.append(_call(desk, run, values["output"]))
            return True
        return False
    # The image or the layer may disappear during the deed.
    with contextlib.suppress(RuntimeError):
        return desk.user.act(image=run.image, deed=name, values=values)
    return False


def _texts(window: Window) -> set[str]:
    """Return the sentences that the dialog shows, without those about the next edit."""
    labels = [t["name"] for t in window.desk.look(app=PLUG_IN) if t["role"] == "label"]
    return {text for text in labels if len(text.split()) > 4 and "Requested" not in text}


def _wait_for_the_window(window: Window) -> None:
    """Wait until the dialog has no edit under way, or is gone."""

    def at_rest() -> bool:
        if not window.plug_in():
            return True
        return not window.workers() and "Cancel" not in (window.buttons() or ["Cancel"])

    until(at_rest, "the end of the window's edit", 4 * PATIENCE)


def _close_windows(desk: Desk) -> None:
    """Close the plug-in's windows, and kill the processes that don't end."""
    window = desk.window

    def closed() -> bool:
        if not window.plug_in():
            return True
        window.desk.press(app=PLUG_IN, role="button", name="Close")
        return False

    try:
        until(closed, "the end of the plug-in", PATIENCE, pause=0.3)
        until(lambda: not window.workers(), "the end of the worker")
    except TimeoutError:
        for process in window.plug_in() + window.workers():
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
