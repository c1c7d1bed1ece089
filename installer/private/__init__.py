"""A GIMP with a private profile, for the commands `host` and `demo` and for the tests.

This package exists only in the checkout (the folder of this project's sources), because payload.py
does not copy it into the users' profiles.
"""
