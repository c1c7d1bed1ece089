"""Installing into a profile, updating, checking with `doctor`, and uninstalling."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from installer import doctor, environment, payload
from installer.folders import Failure
from installer.gimps import Gimp, Profile
from tests.installer.conftest import OFFLINE

CHECKOUT = Path(__file__).resolve().parents[2]


@pytest.fixture
def profile(tmp_path: Path) -> Path:
    return tmp_path / "GIMP profile" / "3.0"


def plug_in(profile: Path) -> Path:
    return profile / "plug-ins" / "dimilinks_gimp"


def tree(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_python_prints_an_interpreter_with_the_packages(user, installer):
    done = installer("python")
    assert done.returncode == 0
    assert len(done.stdout.splitlines()) == 1
    python = done.stdout.strip()
    code = "import requests, PIL.Image, numpy, cv2, keyring, multipart; print('fine')"
    answer = subprocess.run([python, "-c", code], capture_output=True, text=True)
    assert answer.stdout == "fine\n"


def test_a_second_run_keeps_the_environment(user, installer):
    python = Path(installer("python").stdout.strip())
    made = python.lstat().st_ctime
    assert installer("python").stdout.strip() == str(python)
    assert python.lstat().st_ctime == made


def test_two_runs_at_once_make_one_environment(user, data):
    shutil.rmtree(data)
    command = [sys.executable, "-m", "installer", "python"]
    runs = [subprocess.Popen(command, cwd=CHECKOUT, stdout=subprocess.PIPE) for _ in range(2)]
    answers = {run.communicate()[0] for run in runs}
    assert [run.returncode for run in runs] == [0, 0]
    assert len(answers) == 1
    names = [path.name for path in (data / "dimilinks-gimp" / "environments").iterdir()]
    assert len([name for name in names if not name.endswith(".lock")]) == 1
    assert stat.S_IMODE((data / "dimilinks-gimp").stat().st_mode) == 0o700


def test_a_broken_environment_is_made_again(user, installer):
    python = Path(installer("python").stdout.strip())
    packages = next(python.parents[1].glob("lib/python*/site-packages"))
    shutil.rmtree(packages / "requests")
    assert installer("python").returncode == 0
    assert (packages / "requests").is_dir()


def test_install_doctor_update_uninstall(user, installer, profile):
    done = installer("--gimp-dir", profile)
    assert done.returncode == 0, done.stderr
    main = plug_in(profile) / "dimilinks_gimp.py"
    assert os.access(main, os.X_OK)
    assert (plug_in(profile) / "plugin" / "__init__.py").is_file()
    assert not list(profile.rglob("__pycache__"))
    assert not list(profile.rglob("*.po"))
    assert (plug_in(profile) / "locale" / "ja" / "LC_MESSAGES" / "dimilinks_gimp.mo").is_file()
    python = (plug_in(profile) / "worker-python.txt").read_text()
    assert python.count("\n") == 1
    assert os.access(python.strip(), os.X_OK)

    done = installer("doctor", "--gimp-dir", profile)
    assert done.returncode == 0, done.stdout
    assert str(profile) in installer("list").stdout

    # An update replaces every file, and GIMP sees that the main one changed.
    (plug_in(profile) / "plugin" / "old.py").write_text("")
    os.utime(main, (1, 1))
    assert installer("install", "--gimp-dir", profile).returncode == 0
    assert not (plug_in(profile) / "plugin" / "old.py").exists()
    assert main.stat().st_mtime > 1
    assert [path.name for path in profile.iterdir()] == ["plug-ins"]

    done = installer("uninstall", "--gimp-dir", profile)
    assert done.returncode == 0
    assert not profile.exists()
    assert "dimilinks" not in installer("list").stdout.lower()


def test_uninstall_leaves_what_is_not_ours(user, data, installer, profile, monkeypatch):
    monkeypatch.delenv("DIMILINKS_HOME")
    other = profile / "plug-ins" / "other" / "other.py"
    other.parent.mkdir(parents=True)
    other.write_text("other")
    installer("install", "--gimp-dir", profile)
    settings = data / "dimilinks-gimp" / "settings.json"
    settings.write_text("{}")
    done = installer("uninstall", "--gimp-dir", profile)
    assert tree(profile) == {"plug-ins/other/other.py": b"other"}
    assert tree(data) == {"dimilinks-gimp/settings.json": b"{}"}
    assert str(settings.parent) in done.stdout


def test_the_environment_outlives_all_but_the_last_profile(user, data, installer, tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    installer("--gimp-dir", one)
    installer("--gimp-dir", two)
    installer("uninstall", "--gimp-dir", one)
    assert installer("doctor", "--gimp-dir", two).returncode == 0
    installer("uninstall")
    assert not two.exists()
    assert list(data.iterdir()) == []


def test_doctor_says_not_installed(user, installer, profile):
    done = installer("doctor", "--gimp-dir", profile)
    assert done.returncode == 1
    assert "not installed" in done.stdout
    assert "python3 -m installer install --gimp-dir" in done.stdout


def remove_x_bit(folder: Path) -> None:
    (folder / "dimilinks_gimp.py").chmod(0o644)


def remove_code(folder: Path) -> None:
    shutil.rmtree(folder / "plugin")


def remove_note(folder: Path) -> None:
    (folder / "worker-python.txt").unlink()


def move_interpreter(folder: Path) -> None:
    (folder / "worker-python.txt").write_text("/nowhere/bin/python\n")


def take_bare_interpreter(folder: Path) -> None:
    note = folder / "worker-python.txt"
    bare = folder.parents[2] / "bare"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", bare], check=True)
    note.write_text(f"{bare}/bin/python\n")


def copy_elsewhere(folder: Path) -> None:
    shutil.copytree(folder, folder.with_name("dimilinks-gimp-main"))


@pytest.mark.parametrize(
    ("breakage", "words"),
    [
        (remove_x_bit, "not executable"),
        (remove_code, "incomplete"),
        (remove_note, "no interpreter"),
        (move_interpreter, "is gone"),
        (take_bare_interpreter, "do not load"),
        (copy_elsewhere, "dimilinks-gimp-main: the plug-in's place is"),
    ],
)
def test_doctor_finds_and_names_what_is_broken(user, installer, profile, breakage, words):
    installer("--gimp-dir", profile)
    breakage(plug_in(profile))
    done = installer("doctor", "--gimp-dir", profile)
    assert done.returncode == 1
    assert words in done.stdout
    assert "→" in done.stdout
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("command", ["install", "doctor"])
def test_without_any_gimp_a_sentence_says_so(user, installer, command, tmp_path, monkeypatch):
    empty = tmp_path / "empty"
    empty.mkdir()
    (empty / "python3").symlink_to(sys.executable)
    monkeypatch.setenv("PATH", str(empty))
    done = installer(command)
    assert done.returncode == 1
    assert done.stderr.startswith("No GIMP 3 was found")
    assert "Traceback" not in done.stderr


def test_a_used_profile_of_this_user_is_found(user, installer):
    profile = user / ".config" / "GIMP" / "3.2"
    profile.mkdir(parents=True)
    (profile / "gimprc").write_text("")
    # The installer would ask the machine's own GIMP as well, which this test is not about.
    if shutil.which("gimp-console"):
        pytest.skip("this machine has a GIMP of its own")
    assert installer().returncode == 0
    assert plug_in(profile).is_dir()
    installer("uninstall")
    assert tree(profile) == {"gimprc": b""}


def test_an_unwritable_profile_is_refused_with_a_sentence(user, installer, tmp_path):
    (tmp_path / "file").write_text("")
    done = installer("--gimp-dir", tmp_path / "file")
    assert done.returncode == 1
    assert "can't be written" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("2.10", "of GIMP 2.10"),
        ("3.0/plug-ins", "name that: {user}/3.0"),
        ("GIMP", "name one of them, such as {user}/GIMP/3.2"),
    ],
)
def test_a_folder_that_is_no_profile_of_gimp_3_stays_as_it_is(user, installer, name, words):
    (user / name).mkdir(parents=True)
    (user / "GIMP/3.2").mkdir(parents=True, exist_ok=True)
    done = installer("--gimp-dir", user / name)
    assert done.returncode == 1
    assert words.format(user=user) in done.stderr
    assert not any(path.is_file() for path in user.rglob("*"))


@pytest.mark.parametrize("broken", ["copyfile", "copytree", "rename"])
def test_an_interrupted_install_leaves_the_former_one(profile, monkeypatch, broken):
    payload.install(profile, {"": "/former/python"})
    before = tree(profile)

    def fail(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    if broken == "rename":
        # Some file systems can't exchange folders in one step.
        monkeypatch.setattr(payload, "_exchange", lambda *_: False)
        rename = Path.rename

        def second_fails(self: Path, target: Path) -> Path:
            if self.name.endswith(".new"):
                raise KeyboardInterrupt
            return rename(self, target)

        monkeypatch.setattr(Path, "rename", second_fails)
    else:
        monkeypatch.setattr(shutil, broken, fail)
    with pytest.raises(KeyboardInterrupt):
        payload.install(profile, {"": "/fresh/python"})
    monkeypatch.undo()
    assert tree(profile) == before
    assert payload.worker_pythons(profile) == {"": "/former/python"}


def test_an_install_killed_in_the_exchange_is_mended_by_the_next(profile):
    payload.install(profile, {"": "/former/python"})
    plug_in(profile).rename(profile / ".dimilinks_gimp.former")
    (profile / ".dimilinks_gimp.new").mkdir()
    payload.install(profile, {"": "/fresh/python"})
    assert payload.worker_pythons(profile) == {"": "/fresh/python"}
    assert [path.name for path in profile.iterdir()] == ["plug-ins"]


def test_an_incomplete_checkout_is_refused(profile, monkeypatch, tmp_path):
    monkeypatch.setattr(payload, "CHECKOUT", tmp_path)
    with pytest.raises(Failure, match="not complete"):
        payload.install(profile, {"": "/python"})
    assert not plug_in(profile).exists()


def test_a_damaged_catalogue_is_refused(profile, monkeypatch, tmp_path):
    shutil.copytree(CHECKOUT / "plugin", tmp_path / "plugin")
    shutil.copyfile(CHECKOUT / payload.MAIN, tmp_path / payload.MAIN)
    (tmp_path / "plugin" / "locale" / "ja.po").write_text("msgid open")
    monkeypatch.setattr(payload, "CHECKOUT", tmp_path)
    with pytest.raises(Failure, match=r"ja\.po is damaged: line 1"):
        payload.install(profile, {"": "/python"})
    assert not plug_in(profile).exists()


@pytest.mark.parametrize("version", ["3.10", "3.11", "3.13", "3.14"])
def test_every_python_gets_one_version_of_each_package(version):
    lines = environment.requirements_for(version, environment.REQUIREMENTS.read_text()).splitlines()
    names = [line.split("==")[0] for line in lines if line[:1].isalpha()]
    assert len(names) == len(set(names))
    inputs = environment.REQUIREMENTS.with_suffix(".in").read_text().split()
    assert set(inputs) <= set(names)
    assert ("secretstorage" in names, "pywin32-ctypes" in names) == (True, False)
    assert not [line for line in lines if " ; " in line]


LIST = """\
one==1 ; python_full_version < '3.12' and sys_platform == 'linux' \\
    --hash=sha256:1
two==2 ; python_full_version == '3.12.*' or sys_platform != 'linux' \\
    --hash=sha256:2
    # via
    #   one
three==3 \\
    --hash=sha256:3
four==4 ; implementation_name != 'PyPy' and platform_python_implementation == 'PyPy' \\
    --hash=sha256:4
"""


@pytest.mark.parametrize(
    ("version", "system", "names"),
    [
        ("3.11", "linux", ["one==1", "three==3"]),
        ("3.12", "linux", ["two==2", "three==3"]),
        ("3.13", "linux", ["three==3"]),
        ("3.11", "win32", ["two==2", "three==3"]),
    ],
)
def test_requirements_are_those_of_the_target(version, system, names, monkeypatch):
    monkeypatch.setattr(sys, "platform", system)
    lines = environment.requirements_for(version, LIST).splitlines()
    assert [line.removesuffix(" \\") for line in lines if line[0].isalpha()] == names
    assert all(line.endswith(" \\") for line in lines if line[0].isalpha())


@pytest.mark.parametrize(
    "marker", ["os_name == 'nt'", "(sys_platform == 'linux')", "sys_platform < 'l'"]
)
def test_a_marker_that_is_not_understood_is_not_guessed_at(marker):
    with pytest.raises(ValueError, match="unknown"):
        environment.requirements_for("3.11", f"one==1 ; {marker} \\\n    --hash=sha256:1\n")


# Dry runs, what is removed, and sudo


def test_a_dry_run_says_what_would_be_done_and_does_nothing(user, data, installer, profile):
    shutil.rmtree(data)
    done = installer("--dry-run", "--gimp-dir", profile)
    assert done.returncode == 0
    assert f"Will put Dimilinks 0.1.0 in {plug_in(profile)}" in done.stdout
    assert "Will make an environment" in done.stdout
    assert not profile.exists() and not data.exists()


def test_a_dry_run_of_uninstall_leaves_everything(user, data, installer, profile):
    installer("--gimp-dir", profile)
    before = tree(profile), tree(data)
    done = installer("uninstall", "--gimp-dir", profile, "--everything", "--dry-run")
    assert f"Will remove {plug_in(profile)}" in done.stdout
    assert "Will remove key, settings and edits" in done.stdout
    assert (tree(profile), tree(data)) == before


def test_everything_goes_if_the_user_says_so(user, data, home, installer, profile):
    installer("--gimp-dir", profile)
    for name in (
        *("key", "settings.json", "settings.json.damaged-20260101-000000", "busy.json"),
        *("jobs/one/request.json", "locks/settings", "mine.txt"),
    ):
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_text("x")
    done = installer("uninstall", "--everything")
    assert done.returncode == 0, done.stderr
    assert not profile.exists()
    # The user chose this folder, which may contain other files.
    assert tree(home) == {"mine.txt": b"x"}
    assert list(data.iterdir()) == []


def test_what_gimp_remembers_of_the_window_goes_with_the_plug_in(user, installer, profile):
    memory = profile / "plug-in-settings"
    memory.mkdir(parents=True)
    (memory / "GimpProcedureConfigRun-dimilinks-edit.last").write_text("")
    (memory / "GimpProcedureConfigRun-plug-in-other.last").write_text("other")
    installer("--gimp-dir", profile)
    installer("uninstall", "--gimp-dir", profile)
    assert tree(profile) == {"plug-in-settings/GimpProcedureConfigRun-plug-in-other.last": b"other"}


@pytest.mark.parametrize(
    "words",
    [(), ("python",), ("uninstall",), ("doctor",), ("host", "script.py"), ("demo",)],
    ids=lambda words: words[0] if words else "install",
)
def test_sudo_does_not_put_roots_files_into_a_users_home(user, installer, monkeypatch, words):
    if os.geteuid() != 0:
        pytest.skip("this needs root, as sudo gives it")
    (user / ".config/GIMP/3.0").mkdir(parents=True)
    os.chown(user, 1000, 1000)
    monkeypatch.setenv("SUDO_UID", "1000")
    monkeypatch.delenv("XDG_DATA_HOME")
    done = installer(*words, cwd=CHECKOUT)
    assert done.returncode == 1
    assert "without sudo" in done.stderr
    assert [path.name for path in user.rglob("*")] == [".config", "GIMP", "3.0"]


@pytest.mark.parametrize("variable", ["XDG_DATA_HOME", "DIMILINKS_HOME"])
def test_sudo_does_not_put_roots_files_into_another_folder_of_the_user(
    user, installer, tmp_path, monkeypatch, variable
):
    if os.geteuid() != 0:
        pytest.skip("this needs root, as sudo gives it")
    folder = tmp_path / "of the user"
    folder.mkdir()
    os.chown(folder, 1000, 1000)
    monkeypatch.setenv("SUDO_UID", "1000")
    monkeypatch.setenv(variable, str(folder / "new"))
    done = installer("python")
    assert done.returncode == 1
    assert str(folder) in done.stderr and "without sudo" in done.stderr
    assert not list(folder.iterdir())


def test_an_old_python_is_told_what_is_missing():
    """An old Python must be able to parse and run this file up to the message."""
    source = (CHECKOUT / "installer" / "__init__.py").read_text()
    code = f"import sys; sys.version_info = (3, 8, 1, 'final', 0); exec({source!r})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1
    assert "needs Python 3.10 or newer; this is 3.8" in done.stderr


# Without a network


def test_without_a_network_a_folder_of_wheels_does(user, data, installer, profile, wheels):
    shutil.rmtree(data)
    env = {**os.environ, **OFFLINE}
    done = installer("--gimp-dir", profile, "--wheels", wheels, env=env)
    assert done.returncode == 0, done.stderr
    assert installer("doctor", "--gimp-dir", profile, env=env).returncode == 0


def test_a_wheel_that_was_tampered_with_is_refused(
    user, data, installer, profile, wheels, tmp_path
):
    shutil.rmtree(data)
    evil = tmp_path / "evil"
    shutil.copytree(wheels, evil)
    victim = next(evil.glob("idna-*.whl"))
    victim.write_bytes(victim.read_bytes() + b"\0")
    done = installer("--gimp-dir", profile, "--wheels", evil, env={**os.environ, **OFFLINE})
    assert done.returncode == 1
    assert "HASHES" in done.stderr
    assert not plug_in(profile).exists()


def test_without_a_network_the_former_installation_stays(user, data, installer, profile):
    installer("--gimp-dir", profile)
    before = tree(profile)
    shutil.rmtree(next((data / "dimilinks-gimp" / "environments").glob("py3*[0-9a-f]")))
    done = installer("--gimp-dir", profile, env={**os.environ, **OFFLINE})
    assert done.returncode == 1
    assert "--wheels" in done.stderr and "https_proxy" in done.stderr
    assert "Traceback" not in done.stderr
    assert tree(profile) == before


def test_everything_tells_of_what_the_demo_fetched(user, data, installer, tmp_path, monkeypatch):
    cache = tmp_path / "cache/dimilinks-gimp"
    cache.mkdir(parents=True)
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache.parent))
    assert str(cache) not in installer("uninstall").stdout
    assert f"remove {cache}" in installer("uninstall", "--everything").stdout


# What doctor reports


def test_a_data_folder_that_the_worker_refuses_is_wrong(user, data, home, installer, profile):
    installer("--gimp-dir", profile)
    home.mkdir(exist_ok=True)
    home.chmod(0o777)
    done = installer("doctor", "--gimp-dir", profile)
    assert done.returncode == 1
    assert f"wrong  edits would fail: The folder {home} must belong to you" in done.stdout


@pytest.mark.parametrize("cause", ["x bit", "path"])
def test_one_cause_is_one_wrong_with_its_own_remedy(tmp_path, monkeypatch, cause):
    profile = Profile(tmp_path / "3.0", (Gimp("3.0", "3.0.4", "gimp-console-3.0"),))
    payload.install(profile.folder, {"": sys.executable})
    about = {"listed": False, "folder": str(profile.folder), "path": "${gimp_dir}/plug-ins"}
    if cause == "x bit":
        remove_x_bit(plug_in(profile.folder))
    else:
        about["path"] = "/usr/lib/gimp/3.0/plug-ins"
    monkeypatch.setattr(doctor, "ask", lambda *_: (about, ""))
    monkeypatch.setattr(doctor, "_workers", lambda *_: iter(()))
    (wrong,) = (finding for finding in doctor.examine(profile, "install") if finding.wrong)
    assert {"x bit": "chmod +x", "path": "Preferences"}[cause] in wrong.remedy


def test_the_report_holds_no_secret_and_no_name(user, data, home, installer, monkeypatch):
    profile = user / "3.0"
    installer("--gimp-dir", profile)
    home.mkdir(exist_ok=True)
    key = home / "key"
    key.write_text("sk-planted-key\n")
    key.chmod(0o600)
    # Nothing listens at this address, which is quoted in the error.
    monkeypatch.setenv("DIMILINKS_BASE_URL", "http://127.0.0.1:9/v1")
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/nowhere/ca.pem")
    done = installer("doctor", "--gimp-dir", profile)
    report = done.stdout.split("```")[1]
    assert "API key: in the file" in report
    assert "service: " in report
    assert "/nowhere/ca.pem, named by REQUESTS_CA_BUNDLE, where nothing is" in report
    assert "~/3.0/plug-ins" in report and str(user) not in report
    assert "sk-planted-key" not in done.stdout + done.stderr
    assert done.returncode == 1


def test_what_a_report_quotes_is_cleared_of_the_key_and_of_passwords(user, monkeypatch):
    from installer import doctor

    monkeypatch.setenv("DIMILINKS_API_KEY", "sk-in-the-environment")
    text = f"{user}/x {user}-other sk-in-the-environment http://me:pass@proxy:3128/"
    assert doctor.without_secrets(text) == f"~/x {user}-other [key] http://[password]@proxy:3128/"


# Updates


def test_a_copy_that_gimp_made_keeps_its_environment(user, data, installer):
    """At its first start, GIMP 3.2 copies the plug-ins of 3.0."""
    old, new = (user / ".config/GIMP" / series for series in ("3.0", "3.2"))
    installer("--gimp-dir", old)
    shutil.copytree(old, new)
    installer("uninstall", "--gimp-dir", old)
    assert installer("doctor", "--gimp-dir", new).returncode == 0


def test_where_folders_can_not_change_places_in_one_step_they_do_in_two(profile, monkeypatch):
    payload.install(profile, {"": "/former/python"})
    monkeypatch.setattr(payload, "_exchange", lambda *_: False)
    payload.install(profile, {"": "/fresh/python"})
    assert payload.worker_pythons(profile) == {"": "/fresh/python"}
    assert [path.name for path in profile.iterdir()] == ["plug-ins"]


def test_an_installed_plug_in_can_install_itself_elsewhere(
    user, data, installer, profile, tmp_path
):
    installer("--gimp-dir", profile)
    other = tmp_path / "other"
    done = installer("--gimp-dir", other, cwd=plug_in(profile))
    assert done.returncode == 0, done.stderr
    assert tree(plug_in(other)).keys() == {
        name for name in tree(plug_in(profile)) if "__pycache__" not in name
    }
