"""Installs Dimilinks for GIMP, checks it, and runs it in a private GIMP.

`python3 -m installer --help` lists the commands. Only the standard library is used here, so that
it runs with a bare python3. The map:

    __main__.py      the commands, and the one place where expected errors are shown
    folders.py       where things lie on this platform; locks
    programs.py      other programs, and which variables they get
    durable.py       what was written, on the disk for good
    progress.py      commands that take long, with a sign of life
    environment.py   the worker's environment: a venv with pinned, hash-checked packages
    payload.py       the plug-in's files into a GIMP profile, and out of it
    catalogue.py     the translations, compiled
    profiles.py      which GIMP 3 this user has, and which profiles these read
    private_gimp.py  a GIMP 3 in a folder of the cache, for machines that have none
    launch.py        a command inside such a folder, or straight on the machine
    host.py          a GIMP with a private profile: scripts, demo, tests
    host_script.py   the part of it that runs inside GIMP
    demo.py          the main job on the sandbox; demo_script.py is its Python-Fu side
    installation.py  install, list, uninstall and doctor for the user's own GIMPs
    doctor.py        what is wrong with an installation, and the remedy
    release.py       the zip to hand out; install.cmd is its start for Windows
"""

# What is older has to understand all of this file, to be told what is missing.
import sys

if sys.version_info < (3, 10):  # noqa: UP036
    sys.exit(
        "The installer needs Python 3.10 or newer; this is %d.%d (%s).\n"  # noqa: UP031
        "Install a newer one (python.org, or your system's packages) and start it with that."
        % (sys.version_info[0], sys.version_info[1], sys.executable)
    )
