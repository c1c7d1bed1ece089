"""Run GIMP on a desktop of its own: `dbus-run-session -- python3 session.py GIMP FOLDER`.

The desktop has an X server, a window manager, and the two programs that answer the tests, on the
sockets FOLDER/desk and FOLDER/gimp. It ends with GIMP. When its standard input is closed, it kills
GIMP.
"""

import os
import subprocess
import sys
import threading
from pathlib import Path

INSIDE = Path(__file__).parent


def main(gimp, folder):
    read, write = os.pipe()
    size = os.environ.get("SCREEN", "1400x1000")
    screen = ["-screen", "0", f"{size}x24", "-nolisten", "tcp"]
    server = subprocess.Popen(["Xvfb", "-displayfd", str(write), *screen], pass_fds=[write])
    os.close(write)
    with os.fdopen(read) as numbers:
        number = numbers.readline().strip()
    if not number:
        sys.exit("Xvfb did not start.")
    os.environ["DISPLAY"] = f":{number}"
    helpers = [
        subprocess.Popen(["openbox"]),
        subprocess.Popen([sys.executable, INSIDE / "desk.py", f"{folder}/desk"]),
        server,
    ]
    start = f"import sys; sys.path.insert(0, {str(INSIDE)!r}); import in_gimp; "
    start += f"in_gimp.serve({folder + '/gimp'!r})"
    running = subprocess.Popen(
        [
            gimp,
            "--new-instance",
            "--batch-interpreter=python-fu-eval",
            f"--batch={start}",
            "--quit",
        ]
    )

    def watch():
        while os.read(0, 1):
            pass
        running.kill()

    threading.Thread(target=watch, daemon=True).start()
    code = running.wait()
    for helper in helpers:
        helper.terminate()
        helper.wait()
    # Exit at once, because the thread may still be reading.
    os._exit(1 if code else 0)


main(*sys.argv[1:])
