"""The command line, `python -m plugin …`, for the worker's interpreter."""

import contextlib
import os
import sys
from pathlib import Path

# Its threads wait busily, from the import on, while GIMP has better use for the processor.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

if sys.prefix != sys.base_prefix:
    # As long as it is held, the installer leaves this environment alone (installer/environment.py).
    # On Windows it is enough that the file is open.
    with contextlib.suppress(OSError):
        held = os.open(Path(sys.prefix) / "in-use.lock", os.O_RDWR | os.O_CREAT, 0o600)
        if os.name == "posix":
            import fcntl

            try:
                fcntl.flock(held, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                from plugin.words import _

                sys.exit(_("Dimilinks is being updated or removed: try again in a minute."))

from plugin.worker.cli import main

code = main()
# What was closed already is flushed.
with contextlib.suppress(OSError, ValueError):
    sys.stdout.flush()
    sys.stderr.flush()
# So many libraries take longer to be put away than a small edit to be fitted.
os._exit(code)
