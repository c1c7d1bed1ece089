#!/usr/bin/env python3
"""Dimilinks for GIMP: declares the plug-in and hands over to `plugin/gimp/`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

if "-run" in sys.argv:
    from plugin.gimp import launch

    # Its libraries load while GIMP's do here.
    launch.get_ready_early()

import gi

gi.require_version("Gimp", "3.0")
gi.require_version("Gegl", "0.4")
from gi.repository import Gimp  # noqa: E402

from plugin.gimp import procedure, settings_procedure, write_procedure  # noqa: E402


class Dimilinks(Gimp.PlugIn):
    """The plug-in as GIMP knows it."""

    def do_query_procedures(self):
        return [procedure.NAME, procedure.RECOVER, settings_procedure.NAME, write_procedure.NAME]

    def do_create_procedure(self, name):
        apart = {module.NAME: module for module in (settings_procedure, write_procedure)}
        return apart.get(name, procedure).create(self, name)


Gimp.main(Dimilinks.__gtype__, sys.argv)
