"""The command line, `python -m plugin …`, for the worker's interpreter."""

import contextlib
import os
import sys

# Its threads wait busily, from the import on, while GIMP has better use for the processor.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

from plugin.worker.cli import main

code = main()
# What was closed already is flushed.
with contextlib.suppress(OSError, ValueError):
    sys.stdout.flush()
    sys.stderr.flush()
# So many libraries take longer to be put away than a small edit to be fitted.
os._exit(code)
