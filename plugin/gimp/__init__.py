"""The part of the plug-in that runs inside GIMP.

Its modules import only gi, the standard library and the small modules beside this folder, so that
they load in the Python of every GIMP.
"""
