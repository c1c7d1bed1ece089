"""Dimilinks for GIMP: AI edits that stay within the selection.

The package `gimp` runs in GIMP's Python. The package `worker` runs in an environment of its own,
with its libraries. Neither imports the other.

Both may import the modules in this folder, which need only the standard library: `region` (what
part of an image is sent), `job` (the job folder), `lock`, `settings`, `limits` (of the service and
of an edit), `quick_png` (the PNG files in which the two exchange pictures), and `words`
(translations).
"""

__version__ = "0.1.0"
