"""A real GIMP window for the tests: started once per series, looked at and used like by a person.

    pytest ── Window.desk ──▶ inside/desk.py      accessibility bus, keyboard, screenshots
           └─ Window.gimp ──▶ inside/in_gimp.py   what the images hold, in a batch script

Nothing waits by the clock: `until` polls for what must come to be.
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

from installer.host import PrivateGimp

INSIDE = Path(__file__).parent / "inside"
PLUG_IN = "dimilinks-edit"
DIALOG = "Edit with AI"
PATIENCE = 30.0
# None of the tester's own may lead an edit to the real service, or rename what is to be pressed.
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
    """Ask until the answer is true, and return it. Raises TimeoutError that says `what` it was."""
    end = time.monotonic() + patience
    while True:
        answer = condition()
        if answer:
            return answer
        if time.monotonic() > end:
            raise TimeoutError(f"after {patience:.0f} s there is still not: {what}")
        time.sleep(pause)


class Remote:
    """The functions of a program inside, callable by name."""

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
        """Let the program inside go."""
        try:
            self._send(None, {})
        except OSError:
            pass
        finally:
            self._lines.close()
            self._socket.close()


class Window:
    """GIMP on a desktop of its own.

    `home` is its DIMILINKS_HOME, `profile` its GIMP profile, `folder` is shared with it; `environ`
    is added to what its programs find, `SCREEN` the size of the screen among it.
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
        # Where the accessibility bus lies: two desktops must not share it.
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
        """The last messages of GIMP and all beside it."""
        return (self.folder / "log").read_text("utf-8", "replace")[-3000:]

    def close(self) -> None:
        """Let GIMP quit as it does by itself, and end what is left if it does not."""
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

    # What is there

    def processes(self, *words: str) -> list[int]:
        """Ids of this desktop's processes with one of these words in the command line, or all."""
        mark = f"DIMILINKS_HOME={self.home}".encode()
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                environment = (folder / "environ").read_bytes().split(b"\0")
                command = (folder / "cmdline").read_bytes().decode("utf-8", "replace")
            except OSError:
                continue
            # Without a command line it has ended, and only its parent has not heard yet.
            if mark in environment and command and (not words or any(w in command for w in words)):
                found.append(int(folder.name))
        return found

    def plug_in(self) -> list[int]:
        """The plug-in's processes."""
        return self.processes("dimilinks_gimp.py")

    def workers(self) -> list[int]:
        """The workers' processes."""
        return self.processes("\0plugin\0work\0")

    def shows(self, words: str, app: str = "gimp") -> str:
        """The text on the screen that has these words in it; empty if none."""
        for thing in self.desk.look(app=app):
            for text in (thing["name"], thing["text"]):
                if words in text:
                    return text
        return ""

    def focus(self, app: str) -> tuple[str, str]:
        """Role and name of what has the keyboard in an application."""
        focused = [thing for thing in self.desk.look(app=app) if thing["focused"]]
        return (focused[-1]["role"], focused[-1]["name"]) if focused else ("", "")

    def clear(self) -> None:
        """Wait for the end of plug-in and workers, and close all images.

        Raises TimeoutError, with everything ended by force, so that the next test has a chance.
        """
        try:
            until(lambda: not self.plug_in() + self.workers(), "the end of plug-in and workers")
        except TimeoutError:
            self.desk.screenshot(path=str(self.folder / "left.png"))
            crashed = self.plug_in()
            for process in crashed + self.workers():
                os.kill(process, signal.SIGKILL)
            if crashed:
                # GIMP's word on it would cover the next window.
                self.dismiss_message()
            raise
        finally:
            self.gimp.close_images()

    # What is done

    def open_dialog(self) -> None:
        """Choose Filters ▸ Dimilinks ▸ Edit with AI…, and return when the dialog is ready."""
        # GIMP makes its menu fit a new image a moment later.
        until(
            lambda: self.desk.press(app="gimp", role="menu item", name="Edit with AI…"),
            "the menu's item",
        )
        until(lambda: self.desk.active_window() == DIALOG, "the dialog in front")
        until(lambda: self.focus(PLUG_IN)[0], "a focus in the dialog")

    def prompt(self, text: str, result: str = "New layer") -> None:
        """Open the dialog, type the prompt into whatever has the focus, choose the result's place.

        The dialog offers what was chosen last, so nothing is left as it is found.
        """
        self.open_dialog()
        assert self.focus(PLUG_IN) == ("text", "Prompt")
        self.desk.key(name="ctrl+a")
        self.desk.write(text=text)
        until(lambda: self.shown_prompt() == text, f"the prompt “{text}” in the dialog")
        assert self.desk.press(app=PLUG_IN, role="menu item", name=result)

    def shown_prompt(self) -> str:
        """What stands in the dialog's field for the prompt."""
        fields = [t for t in self.desk.look(app=PLUG_IN) if t["role"] == "text"]
        return next(field["text"] for field in fields if field["name"] == "Prompt")

    def press_in_dialog(self, button: str, role: str = "button") -> None:
        """Press a button of the dialog, as soon as it is there."""
        until(lambda: self.desk.press(app=PLUG_IN, role=role, name=button), f"{button} to press")

    def agree(self, button: str) -> None:
        """Press a button of the question over the dialog."""
        until(
            lambda: self.desk.press(app=PLUG_IN, role="button", name=button, within="alert"),
            f"the question whether to {button}",
        )

    def hold(self, button: str, role: str = "button") -> None:
        """Hold a thing in the dialog down with the mouse, until `desk.release`."""
        places: list[list[int] | None] = []

        def still() -> list[int] | None:
            # The window grows with what is new in it.
            places.append(self.desk.place(app=PLUG_IN, role=role, name=button))
            return places[-1] if places[-3:].count(places[-1]) == 3 else None

        x, y = until(still, f"{button} at rest")
        self.desk.hold(x=x, y=y)

    def click(self, button: str, role: str = "button") -> None:
        """Click a thing in the dialog with the mouse."""
        self.hold(button, role)
        self.desk.release()

    def thing(self, role: str, name: str) -> dict[str, Any]:
        """What is called so in the dialog, once it is there."""

        def found() -> dict[str, Any] | None:
            things = self.desk.look(app=PLUG_IN)
            return next((t for t in things if (t["role"], t["name"]) == (role, name)), None)

        return until(found, f"{role} {name}")

    def buttons(self) -> list[str]:
        """The names of the buttons in the dialog."""
        return [t["name"] for t in self.desk.look(app=PLUG_IN) if t["role"] == "button"]

    def wait_for_edits(self) -> None:
        """Return when nothing that is in view in the dialog is under way any more."""
        until(
            lambda: "Discard" in (buttons := self.buttons()) and "Cancel" not in buttons,
            "the end of all edits",
        )

    def close_dialog(self) -> None:
        """Close the dialog, and return when the plug-in has ended."""
        self.press_in_dialog("Close")
        self.wait_for_plug_in()

    def edit_and_close(self) -> None:
        """Press Edit, wait for what comes of it, and close the dialog."""
        self.press_in_dialog("Edit")
        self.wait_for_edits()
        self.close_dialog()

    def cancel_in_the_status_bar(self) -> None:
        """Press the Cancel beside GIMP's progress bar, and return when the plug-in has ended."""
        until(
            lambda: self.desk.press(app="gimp", role="button", name="Cancel"),
            "the status bar's Cancel",
        )
        self.wait_for_plug_in()

    def dismiss_message(self) -> None:
        """Close GIMP's window with a message."""
        until(lambda: self.desk.press(app="gimp", role="button", name="OK"), "a message")

    def wait_for_plug_in(self) -> None:
        """Return when the plug-in has ended."""
        until(lambda: not self.plug_in(), "the end of the plug-in")

    def key(self, name: str) -> None:
        """Press a key in the image window."""

        def in_front() -> bool:
            # Its title changes with the image, now and then while it is looked for.
            self.desk.activate(title="– GIMP$")
            return self.desk.active_window().endswith("– GIMP")

        until(in_front, "the image window in front")
        self.desk.key(name=name)


class Image:
    """The image in the window."""

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
        # Its number is in the title.
        until(lambda: f"-{self.id}." in window.desk.active_window(), "the image in the window")

    def state(self) -> dict[str, Any]:
        """Layers, selection and channels, with digests for pixels."""
        return self._window.gimp.state(image=self.id)

    def layers(self) -> list[dict[str, Any]]:
        """Names, visibility and children of the layers, also while an edit changes them."""
        return self._window.gimp.outline(image=self.id)

    def undo(self, to: dict[str, Any], removal: bool = False) -> None:
        """Press Ctrl+Z once in the window: the image becomes what `to` says, in all respects.

        GIMP itself selects a layer that comes back: `removal` leaves that out.
        """
        self._window.key("ctrl+z")
        self._becomes(to, with_selected=not removal)

    def redo(self, to: dict[str, Any]) -> None:
        """Press Ctrl+Y once in the window: the image becomes what `to` says."""
        self._window.key("ctrl+y")
        self._becomes(to, with_selected=False)

    def _becomes(self, to: dict[str, Any], with_selected: bool) -> None:
        aside = {} if with_selected else {"selected": None}
        wanted = {**to, **aside}

        def reached() -> bool:
            # A layer that goes while it is looked at is an error.
            with contextlib.suppress(RuntimeError):
                return {**self.state(), **aside} == wanted
            return False

        with contextlib.suppress(TimeoutError):
            until(reached, "the state", PATIENCE)
        # Shows how they differ, or what the error is.
        assert {**self.state(), **aside} == wanted

    def view(self) -> np.ndarray:
        """What is seen, a row of 16-bit values per pixel."""
        path = self._window.folder / "view.raw"
        self._window.gimp.write_view(image=self.id, path=str(path))
        return np.fromfile(path, np.uint16).reshape(-1, 4)

    def selected(self) -> np.ndarray:
        """For each pixel whether it is selected: at least half of 1/255."""
        path = self._window.folder / "selection.raw"
        self._window.gimp.write_selection(image=self.id, path=str(path))
        return np.fromfile(path, np.uint8) > 0

    def edit(self, **values: Any) -> tuple[str, str]:
        """Call the procedure without a dialog; return its status and the last error's words."""
        status, words = self._window.gimp.edit(image=self.id, **values)
        return status, words
