"""Functions that read the windows of a desktop and use them as a person does: `desk.py SOCKET`.

Widgets are read and pressed through the accessibility bus. xdotool moves the mouse and types.
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
    """Return the widgets that are visible in the windows of `app`, or of all programs.

    Each widget is {app, role, name, text, focused, on}. `on` means checked or expanded. With
    `hidden`, the widgets that are not visible are returned as well.
    """
    found = []
    for program in _programs(app):
        for window in _children(program):
            for thing in _walk(window, hidden):
                # Widgets may disappear while they are read.
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
    """Press a widget, even an item of a closed menu. Return False if there is none to press.

    `within` is the role of the window to search, if several windows have such a widget.
    """
    thing = _find(app, role, name, within)
    return bool(thing) and thing.get_action_iface().do_action(0)


def place(app, role, name, within=""):
    """Return the centre of a widget on the screen, [x, y], or None if there is none to press."""
    thing = _find(app, role, name, within)
    if not thing:
        return None
    box = thing.get_component_iface().get_extents(Atspi.CoordType.SCREEN)
    return [box.x + box.width // 2, box.y + box.height // 2]


def hold(x, y):
    """Press the mouse button at this point of the screen, and hold it."""
    subprocess.run(["xdotool", "mousemove", str(x), str(y), "mousedown", "1"], check=True)


def release():
    """Release the mouse button."""
    subprocess.run(["xdotool", "mouseup", "1"], check=True)


def time_presses(app, role, name, seconds, pause):
    """Press a widget that can be on or off again and again, with a pause after each press.

    Returns after how many milliseconds it had changed, for each press.
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
    """Choose an item of GIMP's menu, and return after how many milliseconds a widget can be used.

    `role` and `name` are those of the widget, which belongs to the program `app`.
    """
    # GIMP updates its menu a moment after an image was opened.
    while not (chosen := _find("gimp", "menu item", item, "")):
        time.sleep(0.1)
    began = time.monotonic()
    chosen.get_action_iface().do_action(0)
    while not _find(app, role, name, ""):
        time.sleep(0.002)
    return 1000 * (time.monotonic() - began)


def active_window():
    """Return the title of the active window."""
    found = subprocess.run(
        ["xdotool", "getactivewindow", "getwindowname"], capture_output=True, text=True
    )
    return found.stdout.strip()


def activate(title):
    """Activate the window whose title matches the pattern `title`, if there is one."""
    subprocess.run(["xdotool", "search", "--name", title, "windowactivate", "--sync"], check=False)


def key(name):
    """Press a key, such as ctrl+z, in the active window."""
    subprocess.run(["xdotool", "key", "--clearmodifiers", name], check=True)


def write(text):
    """Type a text into the widget that has the focus."""
    # xdotool maps each character that the keyboard lacks to a spare key. Programs need time to
    # notice the new mapping, especially on a busy machine.
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
    """Return position and size of the active window, [x, y, width, height]."""
    lines = _xdotool("getactivewindow", "getwindowgeometry", "--shell").splitlines()
    values = dict(line.split("=") for line in lines)
    return [int(values[name]) for name in ("X", "Y", "WIDTH", "HEIGHT")]


def move_mouse(x, y):
    """Move the mouse, so that tooltips appear where it rests."""
    _xdotool("mousemove", str(x), str(y))


def arrange(x, y, width, height):
    """Move and resize the active window."""
    place, size = ["windowmove", str(x), str(y)], ["windowsize", str(width), str(height)]
    _xdotool("getactivewindow", *place, *size)


def _xdotool(*words):
    return subprocess.run(
        ["xdotool", *words], capture_output=True, text=True, check=True
    ).stdout.strip()


def _programs(name):
    found = []
    for program in _children(Atspi.get_desktop(0)):
        # Programs may end while they are read.
        with contextlib.suppress(GLib.Error):
            if name in ("", program.get_name()):
                # The cache is not updated when a widget is scrolled into view.
                program.clear_cache()
                found.append(program)
    return found


def _walk(thing, hidden):
    # Windows may be closed while they are read.
    with contextlib.suppress(GLib.Error):
        # GTK reports a scrolled viewport as not visible, as if it were itself out of view.
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
