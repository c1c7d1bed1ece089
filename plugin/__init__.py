"""Dimilinks for GIMP: AI edits that keep to the selection.

`gimp/` runs inside GIMP's Python, `worker/` in an environment of its own with the libraries;
neither imports the other. The modules here are pure, need only the standard library, and serve
both: `region` (what is sent), `job` (the folder between the two sides), `lock`, `settings`,
`limits` (of what may be asked), `words`.
"""

__version__ = "0.1.0"
