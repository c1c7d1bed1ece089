"""The command line `python -m plugin …`, which runs in the worker's virtual environment."""

import contextlib
import gc
import os
import sys
from pathlib import Path

# OpenBLAS, the library behind NumPy, starts its threads on import, and idle threads keep the
# processor busy. With a single thread, the processor stays free for GIMP.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

if sys.prefix != sys.base_prefix:
    # While this process holds the lock, the installer neither replaces nor removes the environment
    # (installer/environment.py). On Windows, an open file is enough to prevent that.
    with contextlib.suppress(OSError):
        held = os.open(Path(sys.prefix) / "in-use.lock", os.O_RDWR | os.O_CREAT, 0o600)
        if os.name == "posix":
            import fcntl

            try:
                fcntl.flock(held, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                from plugin.translation import _

                sys.exit(_("Dimilinks is being updated or removed: try again in a minute."))

# Importing creates many objects but no garbage. Without this line, the garbage collector would
# search these objects, which takes a tenth of the time of the imports.
gc.disable()
from plugin.worker.cli import main  # noqa: E402

gc.freeze()
gc.enable()
code = main()
# Flush the output, because os._exit doesn't. Flushing a closed stream raises an error that can be
# ignored: closing has flushed the stream.
with contextlib.suppress(OSError, ValueError):
    sys.stdout.flush()
    sys.stderr.flush()
# Skip the interpreter's shutdown, because unloading all libraries takes longer than fitting a small
# result.
os._exit(code)
