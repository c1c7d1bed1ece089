"""The tests' hands and eyes at the screen: what a person sees and presses.

SOCKET. Reads windows through the accessibility bus, types with xdotool.
"""

import contextlib
import re
import subprocess
import sys
import time

import answering
import gi

gi.require_version("Atspi", "2.0")
from gi.repository import Atspi, GLib  # noqa: E402


def look(app="", hidden=False):
    """Everything that the windows of `app` (all if empty) show now, or have at all.

    A list of {app, role, name, text, focused, on}; `on`: checked or unfolded.
    """
    found = []
    for program in _programs(app):
        for window in _children(program):
            for thing in _walk(window, hidden):
                # Rows come and go while they are looked at.
                with contextlib.suppress(GLib.Error):
                    found.append(_description(program, thing))
    return found


def _description(program, thing):
    return {
        "app": program.get_name(),
        "role": thing.get_role_name(),
        "name": thing.get_name() or "",
        "text": _text(thing),
        "focused": _has(thing, Atspi.StateType.FOCUSED),
        "on": _is_on(thing),
    }


def press(app, role, name, within=""):
    """Press what is called so, even an item of a closed menu; False if there is none to press.

    `within` is the role of the window to look in, where several have such a thing.
    """
    thing = _find(app, role, name, within)
    return bool(thing) and thing.get_action_iface().do_action(0)


def place(app, role, name, within=""):
    """The middle of what is called so, on the screen; None if there is none to press."""
    thing = _find(app, role, name, within)
    if not thing:
        return None
    box = thing.get_component_iface().get_extents(Atspi.CoordType.SCREEN)
    return [box.x + box.width // 2, box.y + box.height // 2]


def hold(x, y):
    """Press the mouse's button there, and do not let go."""
    subprocess.run(["xdotool", "mousemove", str(x), str(y), "mousedown", "1"], check=True)


def release():
    """Let go of the mouse's button."""
    subprocess.run(["xdotool", "mouseup", "1"], check=True)


def time_presses(app, role, name, seconds, pause):
    """Press a thing that can be on or off again and again, with pauses between.

    Returns for each time after how many milliseconds it had changed.
    """
    thing = _find(app, role, name, "")
    took = []
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        was = _is_on(thing)
        began = time.monotonic()
        thing.get_action_iface().do_action(0)
        while _is_on(thing) == was:
            time.sleep(0.001)
        took.append(1000 * (time.monotonic() - began))
        time.sleep(pause)
    return took


def time_opening(item, app, role, name):
    """Choose an item of GIMP's menu; return after how many milliseconds a thing of it can be used.

    The thing is one of `app`.
    """
    # GIMP makes its menu fit a new image a moment later.
    while not (chosen := _find("gimp", "menu item", item, "")):
        time.sleep(0.1)
    began = time.monotonic()
    chosen.get_action_iface().do_action(0)
    while not _find(app, role, name, ""):
        time.sleep(0.002)
    return 1000 * (time.monotonic() - began)


def active_window():
    """The title of the window that the keyboard goes to."""
    found = subprocess.run(
        ["xdotool", "getactivewindow", "getwindowname"], capture_output=True, text=True
    )
    return found.stdout.strip()


def activate(title):
    """Bring the window whose title matches to the front, with the keyboard, if there is one now."""
    subprocess.run(["xdotool", "search", "--name", title, "windowactivate", "--sync"], check=False)


def key(name):
    """Press a key, such as ctrl+z, in the active window."""
    subprocess.run(["xdotool", "key", "--clearmodifiers", name], check=True)


def write(text):
    """Type into whatever has the focus."""
    # Characters that the keyboard lacks are mapped to a spare key one by one: a program needs
    # time to notice, also on a busy machine.
    for part in re.findall(r"[\x00-\x7f]+|[^\x00-\x7f]+", text):
        delay = "12" if part.isascii() else "500"
        subprocess.run(["xdotool", "type", "--delay", delay, part], check=True)


def screenshot(path):
    """Save the whole screen as a picture."""
    subprocess.run(["import", "-window", "root", path], check=True)


def picture(path):
    """Save the active window as a picture, without its frame."""
    window = _xdotool("getactivewindow")
    subprocess.run(["import", "-window", window, path], check=True)


def area():
    """Where the active window is on the screen: x, y, width and height."""
    lines = _xdotool("getactivewindow", "getwindowgeometry", "--shell").splitlines()
    values = dict(line.split("=") for line in lines)
    return [int(values[name]) for name in ("X", "Y", "WIDTH", "HEIGHT")]


def move_mouse(x, y):
    """Move the mouse, which lets tips come up where it rests."""
    _xdotool("mousemove", str(x), str(y))


def arrange(x, y, width, height):
    """Move the active window, and give it that size."""
    place, size = ["windowmove", str(x), str(y)], ["windowsize", str(width), str(height)]
    _xdotool("getactivewindow", *place, *size)


def _xdotool(*words):
    return subprocess.run(
        ["xdotool", *words], capture_output=True, text=True, check=True
    ).stdout.strip()


def _programs(name):
    found = []
    for program in _children(Atspi.get_desktop(0)):
        # Programs come and go while they are looked at.
        with contextlib.suppress(GLib.Error):
            if name in ("", program.get_name()):
                # What is scrolled into view does not say so by itself.
                program.clear_cache()
                found.append(program)
    return found


def _walk(thing, hidden):
    # Windows come and go while they are looked at.
    with contextlib.suppress(GLib.Error):
        # GTK takes a scrolled viewport itself for one that was scrolled out of view.
        seen = _has(thing, Atspi.StateType.SHOWING) or thing.get_role_name() == "viewport"
        if hidden or seen:
            yield thing
            for child in _children(thing):
                yield from _walk(child, hidden)


def _children(thing):
    found = []
    with contextlib.suppress(GLib.Error):
        for number in range(thing.get_child_count()):
            found.append(thing.get_child_at_index(number))
    return [child for child in found if child]


def _find(app, role, name, within):
    for program in _programs(app):
        for window in _children(program):
            for thing in _walk(window, hidden=role == "menu item"):
                with contextlib.suppress(GLib.Error):
                    if (
                        thing.get_role_name() == role
                        and thing.get_name() == name
                        and _has(thing, Atspi.StateType.SENSITIVE)
                        and within in ("", window.get_role_name())
                    ):
                        return thing
    return None


def _is_on(thing):
    return _has(thing, Atspi.StateType.CHECKED) or _has(thing, Atspi.StateType.EXPANDED)


def _has(thing, state):
    return thing.get_state_set().contains(state)


def _text(thing):
    if "Text" not in thing.get_interfaces():
        return ""
    return Atspi.Text.get_text(thing, 0, -1)


if __name__ == "__main__":
    functions = (
        *(look, press, place, hold, release, time_presses, time_opening, move_mouse),
        *(active_window, activate, key, write, screenshot, picture, area, arrange),
    )
    answering.serve(sys.argv[1], {function.__name__: function for function in functions})
