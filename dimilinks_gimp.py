#!/usr/bin/env python3
"""The main file of Dimilinks for GIMP, which GIMP starts.

It declares the procedures to GIMP. The code behind them is in `plugin/gimp/`.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

if "-run" in sys.argv:
    from plugin.gimp.process import launch

    # Start the worker now, so that it loads its libraries while this process loads GIMP's.
    launch.start_spare_early()

import gi

gi.require_version("Gimp", "3.0")
gi.require_version("Gegl", "0.4")
from gi.repository import Gimp  # noqa: E402

from plugin.gimp.procedures import edit, settings, write  # noqa: E402


class Dimilinks(Gimp.PlugIn):
    """The plug-in, as it is registered with GIMP."""

    def do_query_procedures(self):
        return [edit.NAME, edit.RECOVER, settings.NAME, write.NAME]

    def do_create_procedure(self, name):
        apart = {module.NAME: module for module in (settings, write)}
        return apart.get(name, edit).create(self, name)


Gimp.main(Dimilinks.__gtype__, sys.argv)
