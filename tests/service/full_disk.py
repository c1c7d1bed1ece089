"""Make an edit on a disk that is full or read-only: `full_disk.py WHEN HOME PHOTO`.

The script mounts a disk at HOME, so run it in a mount namespace of its own. WHEN is one of these:

    from the start      the disk is full
    nearly              the disk is nearly full
    for a while         the disk gets full when the service has the edit, and has space later
    for good            the same, but it stays full
    everywhere          the same, and so are all other places for results
    read-only a while   the disk gets read-only when the service has the edit, and writable later
    read-only           the same, but it stays read-only

The outcome is printed as JSON. After `for good` and `read-only`, the disk is repaired and the edit
is resumed.
"""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

from plugin import history
from plugin.worker import keeping
from plugin.worker.service import patience
from tests.service.raw_server import Got, RawServer, Reply, http
from tests.service.workers import command

ROOMY, NEARLY_FULL, TINY = "300m", "50m", "64k"


def mount(home: Path, *options: str) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", ",".join(options), "none", home], check=True)


def fill(home: Path) -> None:
    """Reduce the size of the disk to what is used, so that not another byte fits."""
    disk = os.statvfs(home)
    used = (disk.f_blocks - disk.f_bfree) * disk.f_frsize
    mount(home, "remount", f"size={used}")


def main(when: str, home: Path, photo: Path) -> None:
    picture = base64.b64encode(photo.read_bytes()).decode("ascii")
    body = json.dumps({"data": [{"b64_json": picture}]}).encode("ascii")

    def answer(got: Got) -> Reply:
        if when in ("for a while", "for good", "everywhere"):
            fill(home)
        if when.startswith("read-only"):
            # Make a second mount of the disk read-only. With the first one that is not possible
            # while the job's lock is open for writing.
            subprocess.run(["mount", "--bind", home, home], check=True)
            subprocess.run(["mount", "-o", "remount,bind,ro", home], check=True)
        if when.endswith("a while"):
            threading.Timer(1, mend).start()
        return http(200, body, "Content-Type: application/json")

    def mend() -> None:
        if when.startswith("read-only"):
            subprocess.run(["umount", home], check=True)
        else:
            mount(home, "remount", f"size={ROOMY}")

    home.mkdir()
    sizes = {"from the start": TINY, "nearly": NEARLY_FULL}
    mount(home, f"size={sizes.get(when, ROOMY)}", "mode=700")
    patience.LOOKS = 0.1
    patience.ROOM = patience.WRITING = 20 if when.endswith("a while") else 0.5
    elsewhere = home if when == "everywhere" else photo.parent / "elsewhere"
    elsewhere.mkdir(exist_ok=True)
    keeping._parents = lambda: iter([elsewhere])
    with RawServer(answer) as server:
        os.environ["DIMILINKS_BASE_URL"] = server.base_url
        done = command("edit", photo, "--prompt", "echo", "--out", photo.parent)
        found = {"code": done.returncode, "said": done.stderr, "states": states()}
        if when in ("for good", "read-only"):
            mend()
            command("resume", history.all_jobs()[0].id)
        found.update(resumed=states(), posts=server.posts)
        found["elsewhere"] = [str(path) for path in elsewhere.iterdir() if elsewhere != home]
    print(json.dumps(found))


def states() -> list[list[str]]:
    """Return the state and the kind of failure of each variation on the disk."""
    return [
        [post.state, post.kind] for each in history.all_jobs() for post in each.read_state().posts
    ]


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
