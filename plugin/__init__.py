"""Dimilinks for GIMP: AI edits that stay within the selection.

The package `gimp` runs in GIMP's Python. The package `worker` runs outside GIMP, in a virtual
environment that contains the libraries it needs. Neither package imports the other.

Both packages can import the modules in this folder, which need only the standard library: `region`
(which part of an image is sent), `job` (the job folder), `lock`, `settings`, `limits` (of the
service and of an edit), `quick_png` (writes the PNG files in which GIMP and the worker exchange
pictures), and `translation` (messages in the user's language).
"""

__version__ = "0.1.0"
