"""Environment variables and settings that are meant for other programs, and unusual folder names.

They don't break an installation, and secrets in them don't reach programs that don't need them.
"""

from __future__ import annotations

import base64
import hashlib
import http.server
import json
import os
import shutil
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from installer import environment, payload
from plugin.gimp.process import launch

CHECKOUT = Path(__file__).resolve().parents[2]
KEY = "sk-planted-in-the-environment"


@pytest.fixture
def hostile(tmp_path: Path) -> dict[str, str]:
    """Return variables that Python obeys. Each breaks an interpreter, its imports or its output."""
    unfit = tmp_path / "unfit"
    unfit.mkdir()
    for name in ("numpy", "requests", "pip", "venv", "compileall", "plugin"):
        (unfit / f"{name}.py").write_text("raise SystemError('not for this Python')")
    return {
        "PYTHONPATH": str(unfit),
        "PYTHONHOME": str(unfit),
        "PYTHONPLATLIBDIR": "elsewhere",
        "PYTHONSAFEPATH": "1",
        "PYTHONWARNINGS": "error",
        "PYTHONINSPECT": "1",
        "PYTHONSTARTUP": str(unfit / "numpy.py"),
        "PYTHONPROFILEIMPORTTIME": "1",
        "PYTHONIOENCODING": "utf-16",
    }


def run(*words: object, env: dict[str, str], **options: object) -> subprocess.CompletedProcess[str]:
    """Run the installer with `-E`, which protects it from such variables, but not its children."""
    return subprocess.run(
        [sys.executable, "-E", "-m", "installer", *map(str, words)],
        **{
            "cwd": CHECKOUT,
            "env": {**os.environ, **env},
            "stdin": subprocess.DEVNULL,
            "capture_output": True,
            "text": True,
            "timeout": 500,
            **options,
        },
    )


# Variables of Python


def test_a_sound_installation_is_called_sound_whatever_python_is_told(
    user, data, installer, tmp_path, hostile
):
    profile = tmp_path / "profile"
    installer("--gimp-dir", profile)
    wrong = {}
    for name, value in hostile.items():
        plan = run("--dry-run", "--gimp-dir", profile, env={name: value})
        doctor = run("doctor", "--gimp-dir", profile, env={name: value})
        if "Will make an environment" in plan.stdout or doctor.returncode:
            wrong[name] = plan.stdout + doctor.stdout + doctor.stderr
    assert not wrong


def test_the_worker_starts_whatever_python_is_told(home, hostile, monkeypatch):
    said = {}
    for name, value in hostile.items():
        with monkeypatch.context() as patch:
            patch.setenv(name, value)
            worker = launch.start([sys.executable, "-m", "plugin", "service", "--test"])
            said[name] = worker.communicate()
    for name, (out, err) in said.items():
        assert json.loads(out)["message"].startswith("There is no API key"), (name, out, err)
        assert err == b"", name


def test_the_worker_keeps_what_is_meant_for_it(monkeypatch):
    for name in ("DIMILINKS_API_KEY", "DIMILINKS_HOME", "PYTHON_KEYRING_BACKEND", "https_proxy"):
        monkeypatch.setenv(name, "as it is")
    code = "import json, os; print(json.dumps(dict(os.environ)))"
    with launch.start([sys.executable, "-c", code]) as worker:
        seen = json.loads(worker.communicate()[0])
    assert {name for name, value in seen.items() if value == "as it is"} == {
        *("DIMILINKS_API_KEY", "DIMILINKS_HOME", "PYTHON_KEYRING_BACKEND", "https_proxy")
    }
    with launch.start([sys.executable, "-c", code], key=False) as helper:
        assert "DIMILINKS_API_KEY" not in json.loads(helper.communicate()[0])


# Settings of pip


@pytest.fixture
def index(tmp_path: Path) -> Iterator[tuple[int, list[str]]]:
    """Start an index with one package and a password, and yield its port and the requested paths.

    It also answers requests for other hosts, as a proxy does.
    """
    name = "tiny-1.0-py3-none-any.whl"
    wheel = tmp_path / name
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("tiny.py", "")
        for file, text in {
            "METADATA": "Metadata-Version: 2.1\nName: tiny\nVersion: 1.0\n",
            "WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
            "RECORD": "",
        }.items():
            archive.writestr(f"tiny-1.0.dist-info/{file}", text)
    asked: list[str] = []
    password = "Basic " + base64.b64encode(b"me:secret").decode()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            if self.headers["Authorization"] != password:
                self.send_response(401)
                self.send_header("WWW-Authenticate", "Basic")
                self.end_headers()
                return
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            page = f'<a href="{name}">{name}</a>'.encode()
            self.wfile.write(wheel.read_bytes() if self.path.endswith(".whl") else page)

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port, asked
        server.shutdown()


@pytest.fixture
def tiny(tmp_path: Path, index: object) -> Path:
    """Write a list of packages with the one of the index, and its hash."""
    wheel = tmp_path / "tiny-1.0-py3-none-any.whl"
    hashed = hashlib.sha256(wheel.read_bytes()).hexdigest()
    path = tmp_path / "requirements.txt"
    path.write_text(f"tiny==1.0 \\\n    --hash=sha256:{hashed}\n")
    return path


def unfit_settings(tmp_path: Path) -> dict[str, str]:
    """Return settings of pip. Each would cause a different installation, or none."""
    (tmp_path / "constraints.txt").write_text("tiny==0.9\n")
    (tmp_path / "more.txt").write_text("numpy\n")
    return {
        "user": "true",
        "require-virtualenv": "true",
        "target": str(tmp_path / "another place"),
        "prefix": str(tmp_path / "prefix"),
        "root": str(tmp_path / "root"),
        "constraint": str(tmp_path / "constraints.txt"),
        "requirement": str(tmp_path / "more.txt"),
        "no-binary": ":all:",
        "platform": "win_amd64",
        "python-version": "2.7",
        "dry-run": "true",
        "global-option": "--verbose",
    }


@pytest.mark.parametrize("form", ["variables", "pip.conf"])
def test_settings_of_pip_break_nothing_and_lead_to_the_users_index(
    user, tmp_path, index, tiny, monkeypatch, form
):
    port, asked = index
    for variable in [each for each in os.environ if each.startswith("PIP_")]:
        monkeypatch.delenv(variable)
    own = {
        "index-url": "http://me:secret@index.invalid/simple",
        "proxy": f"http://127.0.0.1:{port}",
        "trusted-host": "index.invalid",
        "retries": "0",
        "timeout": "7",
    }
    settings = {**unfit_settings(tmp_path), **own}
    if form == "variables":
        for setting, value in settings.items():
            monkeypatch.setenv(f"PIP_{setting.upper().replace('-', '_')}", value)
    else:
        file = user / ".config/pip/pip.conf"
        file.parent.mkdir(parents=True)
        file.write_text("[global]\n" + "".join(f"{k} = {v}\n" for k, v in settings.items()))
    place = tmp_path / "place"
    environment._fill(place, environment._VERSION, [], tiny, None)
    assert (environment._site(place, environment._VERSION) / "tiny.py").is_file()
    assert "http://index.invalid/simple/tiny/" in asked


# What is started


WATCHED = f"""
import json, os, runpy, sys
log = open(sys.argv.pop(1), "w")
def hook(event, arguments):
    if event == "subprocess.Popen":
        program, words, folder, env = arguments
        env = dict(os.environ if env is None else env)
        json.dump([[os.fsdecode(word) for word in words], env], log)
        print(file=log, flush=True)
sys.addaudithook(hook)
sys.path.insert(0, {str(CHECKOUT)!r})
runpy.run_module("installer", run_name="__main__", alter_sys=True)
"""


def started(log: Path, *words: object, **env: str) -> list[tuple[list[str], dict[str, str]]]:
    """Run a command of the installer, and return the command lines and variables of its children.

    The command itself has the key and `env` in its environment variables.
    """
    done = subprocess.run(
        [sys.executable, "-E", "-c", WATCHED, str(log), *map(str, words)],
        cwd=CHECKOUT,
        env={**os.environ, "DIMILINKS_API_KEY": KEY, **env},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert KEY not in done.stdout + done.stderr
    seen = [json.loads(line) for line in log.read_text().splitlines()]
    # Python's module platform, which is used for the report, starts uname.
    return [(line, variables) for line, variables in seen if line[0] != "uname"]


def test_what_an_installation_starts_is_told_no_key_and_nothing_of_python(
    user, data, wheels, tmp_path, hostile, monkeypatch
):
    monkeypatch.setenv("DIMILINKS_BASE_URL", "sandbox")
    shutil.rmtree(data)
    profile = tmp_path / "3.0"
    seen = []
    for number, words in enumerate(
        [
            ("--gimp-dir", profile, "--wheels", wheels),
            ("doctor", "--gimp-dir", profile),
            ("uninstall", "--gimp-dir", profile),
        ]
    ):
        seen += started(tmp_path / f"log{number}", *words, **hostile)
    everything = " ".join(word for words, _env in seen for word in words)
    for expected in ("venv", "pip", "compileall", "import cv2", "service --test"):
        assert expected in everything
    assert KEY not in everything
    for words, env in seen:
        assert (KEY in env.values()) == ("service" in words), words
        python = {name for name in env if name.startswith("PYTHON")}
        assert python == {"PYTHON_KEYRING_BACKEND", "PYTHONUTF8"}, words


@pytest.mark.gimp
def test_the_key_is_on_no_command_line_of_a_private_gimp(user, tmp_path):
    """Any user of the machine can read command lines, however short a process runs."""
    script = tmp_path / "script.py"
    script.write_text(
        "import os, sys\n"
        f"sys.exit(os.environ.get('DIMILINKS_API_KEY') != {KEY!r} or 'USER_SECRET' in os.environ)"
    )
    seen = started(tmp_path / "log", "host", script, USER_SECRET="secret")
    assert any(str(script.parent) in " ".join(words) for words, _env in seen)
    assert not [words for words, _env in seen if any(KEY in word for word in words)]


# Names of folders


def test_a_home_whose_name_is_not_utf_8_is_installed_into_and_edited_in(
    tmp_path, wheels, installer, monkeypatch, coffee
):
    user = tmp_path / os.fsdecode(b"Andr\xe9")
    profile = user / ".config/GIMP/3.0"
    profile.mkdir(parents=True)
    for name in ("XDG_DATA_HOME", "XDG_CONFIG_HOME", "XDG_CACHE_HOME", "DIMILINKS_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(user))
    monkeypatch.setenv("DIMILINKS_BASE_URL", "sandbox")
    for words in (("--gimp-dir", profile, "--wheels", wheels), ("doctor", "--gimp-dir", profile)):
        done = installer(*words)
        assert done.returncode == 0, done.stdout + done.stderr
    told = installer("python", text=False).stdout.splitlines()[-1]
    # Note and start it as the plug-in does.
    monkeypatch.setattr(launch, "NOTE", payload.plugin_folder(profile) / payload.WORKER_PYTHON)
    assert launch.interpreter() == os.fsdecode(told)
    launch.record(os.fsdecode(told))
    assert launch.interpreter() == os.fsdecode(told)
    monkeypatch.setattr(launch, "_ROOT", payload.plugin_folder(profile))
    coffee.save(user / "photo.png")
    edit = ["edit", str(user / "photo.png"), "--prompt", "sepia"]
    with launch.start([launch.interpreter(), "-m", "plugin", *edit]) as worker:
        _written, err = worker.communicate()
    assert worker.returncode == 0, err
    assert (user / "photo-edit-1.png").is_file()
    done = installer("uninstall", "--gimp-dir", profile)
    assert done.returncode == 0, done.stderr
    left = {path.name for path in (user / ".local/share/dimilinks-gimp").iterdir()}
    assert left == {"jobs", "locks"}
