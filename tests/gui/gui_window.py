"""A real GIMP window for tests, which they look at and use as a person does.

    pytest ── Window.desk ──▶ inside/desk.py      accessibility bus, keyboard, screenshots
           └─ Window.gimp ──▶ inside/in_gimp.py   contents of the images, in a batch script

Instead of sleeping for a fixed time, tests poll for what they expect with `until`.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from installer.private.host import PrivateGimp

INSIDE = Path(__file__).parent / "inside"
PLUG_IN = "dimilinks-edit"
DIALOG = "Edit with AI"
PATIENCE = 30.0
# The variables of the person who runs the tests must not send an edit to the real service, or
# change the language: tests find widgets by their names.
NEUTRAL = {
    "DIMILINKS_API_KEY": "",
    "DIMILINKS_BASE_URL": "",
    "DIMILINKS_ROUTE": "",
    "LANGUAGE": "",
    "LC_ALL": "C.UTF-8",
    "PYTHON_KEYRING_BACKEND": "keyring.backends.fail.Keyring",
}

T = TypeVar("T")


def until(
    condition: Callable[[], T], what: str, patience: float = PATIENCE, pause: float = 0.1
) -> T:
    """Call `condition` until it returns something true, and return that.

    Raises TimeoutError after `patience` seconds. Its message names `what` was expected.
    """
    end = time.monotonic() + patience
    while True:
        answer = condition()
        if answer:
            return answer
        if time.monotonic() > end:
            raise TimeoutError(f"after {patience:.0f} s there is still not: {what}")
        time.sleep(pause)


class Remote:
    """The functions that a program in `inside` offers on its socket, callable by name."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(3 * PATIENCE)
        self._socket.connect(str(path))
        self._lines = self._socket.makefile("r", encoding="utf-8")

    def __getattr__(self, name: str) -> Callable[..., Any]:
        return lambda **values: self._call(name, values)

    def _call(self, name: str, values: dict[str, Any]) -> Any:
        self._send(name, values)
        line = self._lines.readline()
        if not line:
            raise ConnectionError(f"ended before it answered {name}")
        answer = json.loads(line)
        if "error" in answer:
            raise RuntimeError(f"{name}: {answer['error']}")
        return answer["value"]

    def _send(self, name: str | None, values: dict[str, Any]) -> None:
        request = json.dumps({"call": name, "args": values})
        self._socket.sendall(request.encode("utf-8") + b"\n")

    def dismiss(self) -> None:
        """Tell the program that it is no longer needed."""
        try:
            self._send(None, {})
        except OSError:
            pass
        finally:
            self._lines.close()
            self._socket.close()


class Window:
    """A GIMP on a desktop of its own.

    `home` is its DIMILINKS_HOME, `profile` its GIMP profile, and `folder` is shared with it.
    `environ` is added to its environment variables, and may set the size of the screen in SCREEN.
    """

    def __init__(
        self,
        gimp: PrivateGimp,
        folder: Path,
        environ: Mapping[str, str] | None = None,
        home: Path | None = None,
    ) -> None:
        self.private = gimp
        self.folder = folder
        self.home = home or folder / "home"
        self.home.mkdir(exist_ok=True)
        self.profile = gimp.profile
        # The accessibility bus is in this folder. Two desktops must not share it.
        runtime = folder / "runtime"
        runtime.mkdir(mode=0o700)
        self._log = (folder / "log").open("wb")
        program = gimp.gimp.console.replace("gimp-console", "gimp")
        session = ["dbus-run-session", "--", "python3", str(INSIDE / "session.py")]
        self._process = gimp.popen(
            [*session, program, str(folder)],
            {
                **NEUTRAL,
                "DIMILINKS_HOME": str(self.home),
                "XDG_RUNTIME_DIR": str(runtime),
                **(environ or {}),
            },
            [folder],
            stdin=subprocess.PIPE,
            stdout=self._log,
            stderr=self._log,
        )
        try:
            self.gimp = Remote(self._wait_for("gimp"))
            self.desk = Remote(self._wait_for("desk"))
        except BaseException:
            self._end()
            raise

    def _wait_for(self, name: str) -> Path:
        path = self.folder / name

        def there() -> bool:
            if self._process.poll() is not None:
                raise RuntimeError(f"GIMP did not start:\n{self.log()}")
            return path.exists()

        until(there, f"an answer from {name}", 3 * PATIENCE)
        return path

    def log(self) -> str:
        """Return the last output of GIMP and of the programs beside it."""
        return (self.folder / "log").read_text("utf-8", "replace")[-3000:]

    def close(self) -> None:
        """Let GIMP quit, and end everything by force if it doesn't."""
        self.gimp.dismiss()
        try:
            self._process.wait(PATIENCE)
        finally:
            self.desk.dismiss()
            self._end()

    def _end(self) -> None:
        assert self._process.stdin
        self._process.stdin.close()
        try:
            self._process.wait(PATIENCE)
        finally:
            self._process.kill()
            self._process.wait()
            self._log.close()

    # Queries

    def processes(self, *words: str) -> list[int]:
        """Return the ids of this desktop's processes whose command line has one of `words`.

        Without words, return the ids of all of them.
        """
        mark = f"DIMILINKS_HOME={self.home}".encode()
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                environment = (folder / "environ").read_bytes().split(b"\0")
                command = (folder / "cmdline").read_bytes().decode("utf-8", "replace")
            except OSError:
                continue
            # A process without a command line has ended, and its parent hasn't waited for it yet.
            if mark in environment and command and (not words or any(w in command for w in words)):
                found.append(int(folder.name))
        return found

    def plug_in(self) -> list[int]:
        """Return the ids of the plug-in's processes."""
        return self.processes("dimilinks_gimp.py")

    def workers(self) -> list[int]:
        """Return the ids of the workers' processes."""
        return self.processes("\0plugin\0work\0")

    def shows(self, words: str, app: str = "gimp") -> str:
        """Return a text on the screen that contains `words`, or an empty string."""
        for thing in self.desk.look(app=app):
            for text in (thing["name"], thing["text"]):
                if words in text:
                    return text
        return ""

    def focus(self, app: str) -> tuple[str, str]:
        """Return role and name of the widget with the focus in an application, or empty strings."""
        focused = [thing for thing in self.desk.look(app=app) if thing["focused"]]
        return (focused[-1]["role"], focused[-1]["name"]) if focused else ("", "")

    def clear(self) -> None:
        """Wait until plug-in and workers have ended, and close all images.

        If they don't end, they are killed, so that the next test can run, and TimeoutError is
        raised.
        """
        try:
            until(lambda: not self.plug_in() + self.workers(), "the end of plug-in and workers")
        except TimeoutError:
            self.desk.screenshot(path=str(self.folder / "left.png"))
            crashed = self.plug_in()
            for process in crashed + self.workers():
                os.kill(process, signal.SIGKILL)
            if crashed:
                # GIMP's message about the crash would cover the next window.
                self.dismiss_message()
            raise
        finally:
            self.gimp.close_images()

    # Actions

    def open_dialog(self) -> None:
        """Choose Filters ▸ Dimilinks ▸ Edit with AI…, and return when the dialog is ready."""
        # GIMP updates its menu a moment after an image was opened.
        until(
            lambda: self.desk.press(app="gimp", role="menu item", name="Edit with AI…"),
            "the menu's item",
        )
        until(lambda: self.desk.active_window() == DIALOG, "the dialog in front")
        until(lambda: self.focus(PLUG_IN)[0], "a focus in the dialog")

    def prompt(self, text: str, result: str = "New layer") -> None:
        """Open the dialog, type the prompt, and choose where the result goes.

        The dialog starts with the last choices, so both are always set.
        """
        self.open_dialog()
        assert self.focus(PLUG_IN) == ("text", "Prompt")
        self.desk.key(name="ctrl+a")
        self.desk.write(text=text)
        until(lambda: self.shown_prompt() == text, f"the prompt “{text}” in the dialog")
        assert self.desk.press(app=PLUG_IN, role="menu item", name=result)

    def shown_prompt(self) -> str:
        """Return the text in the dialog's field for the prompt."""
        fields = [t for t in self.desk.look(app=PLUG_IN) if t["role"] == "text"]
        return next(field["text"] for field in fields if field["name"] == "Prompt")

    def press_in_dialog(self, button: str, role: str = "button") -> None:
        """Press a button of the dialog as soon as it is there."""
        until(lambda: self.desk.press(app=PLUG_IN, role=role, name=button), f"{button} to press")

    def agree(self, button: str) -> None:
        """Press a button of the question on top of the dialog."""
        until(
            lambda: self.desk.press(app=PLUG_IN, role="button", name=button, within="alert"),
            f"the question whether to {button}",
        )

    def hold(self, button: str, role: str = "button") -> None:
        """Press the mouse button on a widget of the dialog, and hold it until `desk.release`."""
        places: list[list[int] | None] = []

        def still() -> list[int] | None:
            # The widget may still move, because the window grows with its contents.
            places.append(self.desk.place(app=PLUG_IN, role=role, name=button))
            return places[-1] if places[-3:].count(places[-1]) == 3 else None

        x, y = until(still, f"{button} at rest")
        self.desk.hold(x=x, y=y)

    def click(self, button: str, role: str = "button") -> None:
        """Click a widget of the dialog with the mouse."""
        self.hold(button, role)
        self.desk.release()

    def thing(self, role: str, name: str) -> dict[str, Any]:
        """Wait for a widget of the dialog, and return its description."""

        def found() -> dict[str, Any] | None:
            things = self.desk.look(app=PLUG_IN)
            return next((t for t in things if (t["role"], t["name"]) == (role, name)), None)

        return until(found, f"{role} {name}")

    def buttons(self) -> list[str]:
        """Return the names of the buttons that the dialog shows."""
        return [t["name"] for t in self.desk.look(app=PLUG_IN) if t["role"] == "button"]

    def wait_for_edits(self) -> None:
        """Wait until none of the edits that the dialog shows is under way."""
        until(
            lambda: "Discard" in (buttons := self.buttons()) and "Cancel" not in buttons,
            "the end of all edits",
        )

    def close_dialog(self) -> None:
        """Close the dialog, and wait until the plug-in has ended."""
        self.press_in_dialog("Close")
        self.wait_for_plug_in()

    def edit_and_close(self) -> None:
        """Press Edit, wait until the edits have ended, and close the dialog."""
        self.press_in_dialog("Edit")
        self.wait_for_edits()
        self.close_dialog()

    def cancel_in_the_status_bar(self) -> None:
        """Press Cancel beside GIMP's progress bar, and wait until the plug-in has ended."""
        until(
            lambda: self.desk.press(app="gimp", role="button", name="Cancel"),
            "the status bar's Cancel",
        )
        self.wait_for_plug_in()

    def dismiss_message(self) -> None:
        """Wait for a message from GIMP, and close it."""
        until(lambda: self.desk.press(app="gimp", role="button", name="OK"), "a message")

    def wait_for_plug_in(self) -> None:
        """Wait until the plug-in has ended."""
        until(lambda: not self.plug_in(), "the end of the plug-in")

    def key(self, name: str) -> None:
        """Press a key in the image window."""

        def in_front() -> bool:
            # Its title changes with the image, sometimes while the window is searched for.
            self.desk.activate(title="– GIMP$")
            return self.desk.active_window().endswith("– GIMP")

        until(in_front, "the image window in front")
        self.desk.key(name=name)


class Image:
    """An image that is open in the window."""

    def __init__(
        self,
        window: Window,
        path: Path,
        precision: str = "u8",
        feather: int = 0,
        kind: str = "",
        beside: bool = False,
    ) -> None:
        self._window = window
        self.id = window.gimp.open_image(
            path=str(path), precision=precision, feather=feather, kind=kind, beside=beside
        )
        # The title contains the image's id.
        until(lambda: f"-{self.id}." in window.desk.active_window(), "the image in the window")

    def state(self) -> dict[str, Any]:
        """Return layers, selection and channels, with digests of their pixels."""
        return self._window.gimp.state(image=self.id)

    def layers(self) -> list[dict[str, Any]]:
        """Return names, visibility and children of the layers, also while an edit changes them."""
        return self._window.gimp.outline(image=self.id)

    def undo(self, to: dict[str, Any], removal: bool = False) -> None:
        """Press Ctrl+Z once in the window, and check that the image gets the state `to`.

        With `removal`, the selected layers are not compared: GIMP selects a layer whose removal is
        undone.
        """
        self._window.key("ctrl+z")
        self._becomes(to, with_selected=not removal)

    def redo(self, to: dict[str, Any]) -> None:
        """Press Ctrl+Y once in the window, and check that the image gets the state `to`.

        The selected layers are not compared.
        """
        self._window.key("ctrl+y")
        self._becomes(to, with_selected=False)

    def _becomes(self, to: dict[str, Any], with_selected: bool) -> None:
        aside = {} if with_selected else {"selected": None}
        wanted = {**to, **aside}

        def reached() -> bool:
            # Reading a layer that is being removed is an error.
            with contextlib.suppress(RuntimeError):
                return {**self.state(), **aside} == wanted
            return False

        with contextlib.suppress(TimeoutError):
            until(reached, "the state", PATIENCE)
        # If the state was not reached, this shows the differences, or raises the error.
        assert {**self.state(), **aside} == wanted

    def view(self) -> np.ndarray:
        """Return what is visible, (pixels, 4), as 16-bit R'G'B'A values."""
        path = self._window.folder / "view.raw"
        self._window.gimp.write_view(image=self.id, path=str(path))
        return np.fromfile(path, np.uint16).reshape(-1, 4)

    def selected(self) -> np.ndarray:
        """Return for each pixel whether at least half of 1/255 of it is selected."""
        path = self._window.folder / "selection.raw"
        self._window.gimp.write_selection(image=self.id, path=str(path))
        return np.fromfile(path, np.uint8) > 0

    def edit(self, **values: Any) -> tuple[str, str]:
        """Call the procedure without a dialog, and return its status and the last error message."""
        status, words = self._window.gimp.edit(image=self.id, **values)
        return status, words
