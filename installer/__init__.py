"""The installer: installs Dimilinks for GIMP, checks it, and runs it in a private GIMP.

`python3 -m installer --help` lists the commands. The package needs only the standard library, so
that any python3 can run it. Its modules:

    __main__.py      the command line; the only place where expected errors are printed
    folders.py       our folders on each platform; locks between runs
    programs.py      starts other programs and chooses their environment variables
    durable.py       flushes files to the disk
    progress.py      runs slow commands and shows their progress
    environment.py   the worker's environment: a venv with pinned, hash-checked packages
    payload.py       copies the plug-in into a GIMP profile, or removes it
    catalogue.py     compiles the translations
    profiles.py      finds the user's GIMP 3 installations and their profiles
    private_gimp.py  a GIMP 3 in our cache folder, for machines that have none
    launch.py        runs a command inside that folder, or directly on the machine
    host.py          a GIMP with a private profile, for scripts, the demo and the tests
    host_script.py   the part of host.py that runs inside GIMP
    demo.py          an edit on the sandbox; demo_script.py is its part inside GIMP
    installation.py  the commands install, list, uninstall and doctor
    doctor.py        checks an installation and suggests remedies
    release.py       builds the release zip; install.cmd starts the installer on Windows
"""

# Older versions of Python must be able to parse this file, so that they can print the message.
import sys

if sys.version_info < (3, 10):  # noqa: UP036
    sys.exit(
        "The installer needs Python 3.10 or newer; this is %d.%d (%s).\n"  # noqa: UP031
        "Install a newer one (python.org, or your system's packages) and start it with that."
        % (sys.version_info[0], sys.version_info[1], sys.executable)
    )
