"""What people see: the window of an edit. Loaded by interactive runs only, which have a display."""

import gi

gi.require_version("Gdk", "3.0")
gi.require_version("GdkPixbuf", "2.0")
gi.require_version("GimpUi", "3.0")
gi.require_version("Gtk", "3.0")
gi.require_version("Pango", "1.0")
