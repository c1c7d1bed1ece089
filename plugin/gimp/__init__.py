"""The side inside GIMP: gi and the standard library only, for it must load in every GIMP."""
