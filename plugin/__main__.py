"""The command line, `python -m plugin …`, for the worker's interpreter."""

import sys

from plugin.worker.cli import main

sys.exit(main())
