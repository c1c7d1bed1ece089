"""The command line `python -m plugin …`, which runs in the worker's environment."""

import contextlib
import gc
import os
import sys
from pathlib import Path

# OpenBLAS starts its threads on import, and they spin while they wait. With a single thread, the
# processor stays free for GIMP.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

if sys.prefix != sys.base_prefix:
    # While this lock is held, the installer neither replaces nor removes the environment
    # (installer/environment.py). On Windows it is enough to keep the file open.
    with contextlib.suppress(OSError):
        held = os.open(Path(sys.prefix) / "in-use.lock", os.O_RDWR | os.O_CREAT, 0o600)
        if os.name == "posix":
            import fcntl

            try:
                fcntl.flock(held, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                from plugin.words import _

                sys.exit(_("Dimilinks is being updated or removed: try again in a minute."))

# Importing creates many objects and no garbage: searching them for it takes a tenth of the time.
gc.disable()
from plugin.worker.cli import main  # noqa: E402

gc.freeze()
gc.enable()
code = main()
# Flushing a closed stream fails, but a stream is flushed when it is closed.
with contextlib.suppress(OSError, ValueError):
    sys.stdout.flush()
    sys.stderr.flush()
# Skip the interpreter's shutdown: unloading all libraries takes longer than fitting a small edit.
os._exit(code)
