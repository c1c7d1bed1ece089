"""Finding GIMPs and their profiles, and installing for them, in imitations of real file trees.

No GIMP runs here. Scripts stand in for them, and give the answers that the installer asks for.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from installer import environment, folders, gimps, installation, payload

FLATPAK = """\
#!/bin/sh
case "$1 $2" in
"info org.gimp.GIMP") cat <<END

GIMP - Create images and edit photographs

          ID: org.gimp.GIMP
         Ref: app/org.gimp.GIMP/x86_64/stable
     Version: 3.0.6
     Runtime: org.gnome.Platform/x86_64/49
END
;;
"run --command=python3") shift 3; exec PYTHON "$@" ;;
*) exit 1 ;;
esac
"""
SNAP = """\
#!/bin/sh
# run --shell gimp -c SCRIPT NAME ARGUMENTS
[ "$1 $2 $3 $4" = "run --shell gimp -c" ] || exit 1
shift 4
PATH=INSIDE:$PATH exec sh -c "$@"
"""


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Imitate a machine without GIMP. `home` is its user's home, `bin` a folder in its PATH."""
    made = SimpleNamespace(home=tmp_path / "user é", bin=tmp_path / "bin")
    for folder in (made.home, made.bin):
        folder.mkdir()
    monkeypatch.setenv("HOME", str(made.home))
    monkeypatch.setenv("PATH", f"{made.bin}:/usr/bin:/bin")
    for name in ("XDG_CONFIG_HOME", "XDG_DATA_HOME", "GIMP3_DIRECTORY", "DIMILINKS_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(gimps, "SNAP_MOUNTS", (tmp_path / "snap",))
    monkeypatch.setattr(gimps, "APPLICATIONS", tmp_path / "Applications")
    # The real machine may have a GIMP.
    monkeypatch.setattr(gimps.shutil, "which", lambda name: _which(made.bin, name))
    return made


def _which(folder: Path, name: str) -> str | None:
    return str(folder / name) if (folder / name).exists() else None


def program(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


def console(path: Path, version: str) -> None:
    """Write a script that stands in for a GIMP, and prints its version."""
    program(path, f"#!/bin/sh\necho 'GNU Image Manipulation Program version {version}'\n")


def found() -> dict[str, list[str]]:
    """Return the profiles that are found, with the GIMPs that read each."""
    return {
        str(profile.folder): [f"{gimp.version} {gimp.kind}" for gimp in profile.gimps]
        for profile in gimps.find_profiles()
    }


def test_two_native_ones_side_by_side(machine):
    console(machine.bin / "gimp-console-3.0", "3.0.4")
    console(machine.bin / "gimp-console-3.2", "3.2.6")
    console(machine.bin / "gimp-console", "3.2.6")
    parent = machine.home / ".config/GIMP"
    assert found() == {f"{parent}/3.0": ["3.0.4 native"], f"{parent}/3.2": ["3.2.6 native"]}


def test_an_old_gimp_is_none(machine):
    console(machine.bin / "gimp-console", "2.10.36")
    assert found() == {}


@pytest.mark.parametrize("shared", [False, True])
def test_a_flatpak_reads_the_users_folder_once_there_is_one(machine, shared):
    program(machine.bin / "flatpak", FLATPAK)
    own, of_all = machine.home / ".var/app/org.gimp.GIMP/config/GIMP", machine.home / ".config/GIMP"
    (own / "3.0").mkdir(parents=True)
    if shared:
        of_all.mkdir(parents=True)
    assert found() == {f"{of_all if shared else own}/3.0": ["3.0.6 Flatpak"]}


def test_a_snap(machine, tmp_path):
    about = tmp_path / "snap/gimp/current/meta/snap.yaml"
    about.parent.mkdir(parents=True)
    about.write_text("name: gimp\nversion: 3.0.6\nsummary: GNU Image Manipulation Program\n")
    program(machine.bin / "snap", SNAP)
    folder = machine.home / "snap/gimp/current/.config/GIMP/3.0"
    assert found() == {str(folder): ["3.0.6 Snap"]}


def test_an_appimage_shares_the_native_profile(machine):
    console(machine.bin / "gimp-console-3.0", "3.0.4")
    program(machine.home / "Downloads/GIMP-3.0.6-x86_64.AppImage", "#!/bin/sh\n")
    # Without the x bit, it was never started.
    (machine.home / "GIMP-3.2.0-x86_64.AppImage").write_text("")
    folder = machine.home / ".config/GIMP/3.0"
    assert found() == {str(folder): ["3.0.4 native", "3.0.6 AppImage"]}


@pytest.fixture
def windows(machine, tmp_path, monkeypatch) -> Path:
    """Imitate a machine with Windows, and return its drive."""
    drive = tmp_path / "C"
    for name, place in {
        "APPDATA": "Users/u/AppData/Roaming",
        "LOCALAPPDATA": "Users/u/AppData/Local",
        "ProgramFiles": "Program Files",
        "ProgramW6432": "Program Files",
    }.items():
        monkeypatch.setenv(name, str(drive / place))
    monkeypatch.setattr(sys, "platform", "win32")
    return drive


def test_windows_for_all_users_and_for_this_one(windows):
    console(windows / "Program Files/GIMP 3/bin/gimp-console-3.0.exe", "3.0.4")
    console(windows / "Users/u/AppData/Local/Programs/GIMP 3/bin/gimp-console-3.2.exe", "3.2.0")
    parent = windows / "Users/u/AppData/Roaming/GIMP"
    assert found() == {f"{parent}/3.0": ["3.0.4 Windows"], f"{parent}/3.2": ["3.2.0 Windows"]}


def test_windows_elsewhere_by_the_registry(windows, monkeypatch):
    place = windows / "Tools/GIMP"
    console(place / "bin/gimp-console-3.0.exe", "3.0.4")

    class Key:
        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

    def open_key(root, name):
        if root != "machine" or not name.endswith("GIMP-3_is1"):
            raise FileNotFoundError
        return Key()

    registry = SimpleNamespace(
        HKEY_CURRENT_USER="user",
        HKEY_LOCAL_MACHINE="machine",
        OpenKey=open_key,
        QueryValueEx=lambda _key, _name: (str(place), 1),
    )
    monkeypatch.setitem(sys.modules, "winreg", registry)
    assert list(found().values()) == [["3.0.4 Windows"]]


def test_the_microsoft_stores_profile_once_it_was_started(windows):
    folder = windows / (
        "Users/u/AppData/Local/Packages/Publisher.GIMP_abc123/LocalCache/Roaming/GIMP/3.0"
    )
    folder.mkdir(parents=True)
    assert found() == {str(folder): []}


def test_macos(machine, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    console(tmp_path / "Applications/GIMP.app/Contents/MacOS/gimp-console", "3.0.4")
    console(machine.home / "Applications/GIMP 3.2.app/Contents/MacOS/gimp-console", "3.2.0")
    parent = machine.home / "Library/Application Support/GIMP"
    assert found() == {f"{parent}/3.0": ["3.0.4 macOS"], f"{parent}/3.2": ["3.2.0 macOS"]}
    assert folders.data_folder() == parent.with_name("dimilinks-gimp")


def test_a_relative_variable_is_taken_from_the_home(machine, monkeypatch):
    monkeypatch.setenv("GIMP3_DIRECTORY", "mine/3.0")
    assert found() == {str(machine.home / "mine/3.0"): []}


@pytest.fixture
def flatpak(machine) -> Path:
    """Imitate a Flatpak whose Python is the one that runs the tests, and return its profile."""
    program(machine.bin / "flatpak", FLATPAK.replace("PYTHON", sys.executable))
    return machine.home / ".var/app/org.gimp.GIMP/config/GIMP/3.0"


def fill(place: Path, version: str, flags: list[str], *_: object) -> None:
    """Stand in for pip: write a module for each package that is imported, and pip's options."""
    site = environment._site(place, version)
    for name in ("cv2", "filelock", "keyring", "multipart", "numpy", "requests"):
        (site / f"{name}.py").write_text("")
    (site / "PIL").mkdir()
    (site / "PIL/Image.py").write_text("")
    (site / "flags.txt").write_text(" ".join(flags))


def test_a_flatpak_gets_an_environment_of_its_own_python(flatpak, machine, monkeypatch):
    monkeypatch.setattr(environment, "_fill", fill)
    # In a Flatpak, python3 is the Flatpak's own. Here it must be the Python that runs the tests.
    monkeypatch.setenv("PATH", f"{machine.bin}:{Path(sys.executable).parent}:/usr/bin:/bin")
    gimp = gimps.find_profiles()[0].gimps[0]
    python = environment.for_gimp(gimp)
    place = Path(python).parents[1]
    assert place.parent == folders.data_folder() / "environments"
    assert place.name.startswith(f"flatpak-py3.{sys.version_info.minor}-")
    told = next(place.rglob("flags.txt")).read_text()
    assert f"--python-version 3.{sys.version_info.minor}" in told
    assert "--platform manylinux_2_28" in told
    payload.install(flatpak, {"": "/usr/bin/python3", gimp.place: python})
    noted = (payload.plugin_folder(flatpak) / "worker-python.txt").read_text()
    assert noted == f"/usr/bin/python3\nflatpak\t{python}\n"


def test_a_snaps_environment_lies_where_the_snap_sees_it(machine, tmp_path, monkeypatch):
    inside = tmp_path / "inside"
    inside.mkdir()
    (inside / "python3").symlink_to(sys.executable)
    program(machine.bin / "snap", SNAP.replace("INSIDE", str(inside)))
    monkeypatch.setenv("PATH", f"{machine.bin}:/usr/bin:/bin")
    monkeypatch.setattr(environment, "_fill", fill)
    gimp = gimps.Gimp("3.0", "3.0.6", "", kind=gimps.SNAP)
    python = Path(environment.for_gimp(gimp))
    assert python.is_relative_to(machine.home / "snap/gimp/common/dimilinks-gimp/environments")
    assert subprocess.run([python, "-c", "import requests"]).returncode == 0


def test_what_a_sandbox_can_not_do_does_not_keep_the_others_from_theirs(
    machine, flatpak, monkeypatch, capsys
):
    program(machine.bin / "flatpak", FLATPAK.replace("exec PYTHON", "exit 7; :"))
    console(machine.bin / "gimp-console-3.2", "3.2.6")
    monkeypatch.setattr(environment, "for_machine", lambda _wheels: Path("/usr/bin/python3"))
    monkeypatch.setattr(installation.doctor, "start", lambda *_: "")
    monkeypatch.setattr(installation.doctor, "ask", lambda *_: ({"listed": True}, ""))
    with pytest.raises(folders.Failure, match="Python of the Flatpak does not run"):
        installation.install(None, None, False)
    assert payload.is_installed(machine.home / ".config/GIMP/3.2")
    assert not payload.is_installed(flatpak)


def test_a_flatpak_whose_folder_moves_by_a_first_start_is_followed(machine, flatpak, monkeypatch):
    """Once a GIMP has created ~/.config/GIMP, the Flatpak reads this folder."""
    console(machine.bin / "gimp-console-3.2", "3.2.6")
    shared = machine.home / ".config/GIMP"

    def start(gimp: gimps.Gimp, *_: object) -> str:
        gimps.profile_folder(gimp).mkdir(parents=True)
        return ""

    monkeypatch.setattr(environment, "_fill", fill)
    monkeypatch.setattr(installation.doctor, "start", start)
    monkeypatch.setattr(installation.doctor, "ask", lambda *_: ({"listed": True}, ""))
    assert installation.install(None, None, False) == 0
    for folder in (shared / "3.2", shared / "3.0"):
        assert payload.is_installed(folder)
    assert "flatpak" in payload.worker_pythons(shared / "3.0")


@pytest.mark.parametrize(
    ("platform", "prefix", "words"),
    [
        ("win-amd64", "C/Program Files/WindowsApps/Python.3.13_x64", "from the Microsoft Store"),
        ("mingw_x86_64_ucrt_gnu", "C/msys64/ucrt64", "belongs to MSYS2"),
    ],
)
def test_a_python_that_others_could_not_use_is_refused(
    windows, monkeypatch, platform, prefix, words
):
    console(windows / "Program Files/GIMP 3/bin/gimp-console-3.0.exe", "3.0.4")
    monkeypatch.setattr(environment.sysconfig, "get_platform", lambda: platform)
    monkeypatch.setattr(sys, "base_prefix", prefix)
    with pytest.raises(folders.Failure, match=words):
        installation.install(None, None, False)
    assert not (windows / "Users").exists()
