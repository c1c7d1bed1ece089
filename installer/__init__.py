"""Install Dimilinks for GIMP, check the installation, and run the plug-in in a private GIMP.

A private GIMP has a temporary profile, so that it can't change the user's own. A profile is the
folder with GIMP's settings and plug-ins. The worker is the process, outside GIMP, in which the
plug-in calls the service.

`python3 -m installer --help` lists the commands. The package needs only the standard library, so
that every Python from 3.10 on can run it. The modules are:

    __main__.py      the command line; the only module that prints expected errors
    installation.py  the commands install, list, uninstall and doctor
    doctor.py        the checks of the command doctor, with a remedy for each fault
    gimps.py         finds the user's GIMP 3 installations and their profiles
    payload.py       copies the plug-in into a GIMP profile, or removes it
    catalogue.py     compiles the translations
    environment.py   creates the worker's environment: a venv with pinned, hash-checked packages
    pips.py          finds a pip, and passes on the user's settings that say where packages are
    programs.py      starts other programs, and shows the progress of slow ones
    inside.py        runs a command in a private GIMP's folder tree, or directly on the machine
    folders.py       the folders that Dimilinks uses; locks between runs of the installer
    durable.py       flushes files to the disk
    release.py       builds the release zip; install.cmd starts the installer on Windows
    private/         a GIMP with a private profile, for scripts, the demo and the tests
        host.py          the command host; host_script.py is the code that runs inside GIMP
        demo.py          the command demo; demo_script.py is the code that runs inside GIMP
        debian.py        downloads a GIMP 3 into the cache folder, for machines without one
"""

# Use only old syntax in this file, so that a Python before 3.10 can parse it and print the message.
import sys

if sys.version_info < (3, 10):  # noqa: UP036
    sys.exit(
        "The installer needs Python 3.10 or newer; this is %d.%d (%s).\n"  # noqa: UP031
        "Install a newer one (python.org, or your system's packages) and start it with that."
        % (sys.version_info[0], sys.version_info[1], sys.executable)
    )
