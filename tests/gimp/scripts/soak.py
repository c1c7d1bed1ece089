"""Make many edits in one GIMP, and measure from time to time what GIMP and this process hold.

The arguments are the mode, the number of edits, and the number of edits from one measurement to the
next. In the mode `procedure`, each edit is made by a plug-in process of its own. In the mode
`window`, all of them are made by this process, as the window does it.
"""

import os
import sys
import threading
import time
from pathlib import Path

import inside
from gi.repository import Gimp

sys.path.insert(0, inside.PLUG_IN)
from plugin.gimp import edit as editing
from plugin.gimp.planning import Request

HOME = Path(os.environ["DIMILINKS_HOME"])


def stat(process):
    """Return a process's parent and its resident memory in kB, or None if it has ended."""
    try:
        fields = (process / "stat").read_text().rpartition(")")[2].split()
        return int(fields[1]), int(fields[21]) * os.sysconf("SC_PAGE_SIZE") // 1024
    except OSError:
        return None


def held(process):
    return {
        "kB": stat(Path(f"/proc/{process}"))[1],
        "files": len(os.listdir(f"/proc/{process}/fd")),
        "threads": len(os.listdir(f"/proc/{process}/task")),
    }


def below(process):
    """Return the number of the processes that descend from a process."""
    parents = {}
    for entry in Path("/proc").glob("[0-9]*"):
        if known := stat(entry):
            parents[int(entry.name)] = known[0]
    count, generation = 0, [process]
    while generation:
        generation = [child for child, parent in parents.items() if parent in generation]
        count += len(generation)
    return count


def wait_for_workers():
    """Wait until the workers of this process have compressed their pictures and ended."""
    end = time.monotonic() + 30
    # A thread listens to each worker until it has ended.
    while threading.active_count() > 1 and time.monotonic() < end:
        time.sleep(0.05)


def files(folder):
    return sum(len(names) for _folder, _folders, names in os.walk(folder))


def edited(image, layer, output):
    if MODE == "procedure":
        status, message, layers = inside.edit(image, [layer], prompt="echo", output=output)
        assert status == inside.SUCCESS, message
        return layers
    request = Request(
        *("echo", "gpt-image-2", "auto", "auto", output, "layer"), *(True, 1, [], [], 0, -1, True)
    )
    layers, sentences = editing.edit(image, [layer], request)
    assert not sentences, sentences
    return layers


MODE, number, every = inside.ARGUMENTS[0], *map(int, inside.ARGUMENTS[1:])
image, layer = inside.photo()
image.scale(300, 200)
image.select_ellipse(Gimp.ChannelOps.REPLACE, 110, 70, 60, 50)
rows = []
began = time.monotonic()
for done in range(1, number + 1):
    output = "replace" if done % 2 else "new-layer"
    for made in edited(image, layer, output):
        if output == "new-layer":
            image.remove_layer(made)
    if done % every:
        continue
    wait_for_workers()
    # Empty the undo history, whose memory is not to be measured.
    image.undo_disable()
    image.undo_enable()
    rows.append(
        {
            "edits": done,
            "seconds": (time.monotonic() - began) / every,
            "GIMP": held(os.getppid()),
            "script": held(os.getpid()),
            "processes": below(os.getppid()),
            "temporary files": files(os.environ["TMPDIR"]),
            "hidden files": len(list(HOME.rglob(".*"))),
            "jobs": len(os.listdir(HOME / "jobs")),
        }
    )
    began = time.monotonic()
    inside.found(rows)
