"""The command `host`, which runs Python-Fu scripts in a private GIMP, in both series."""

from __future__ import annotations

import http.server
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from installer.folders import Failure
from installer.inside import check_share
from installer.private.host import PrivateGimp

CHECKOUT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.gimp


@pytest.fixture(params=["3.0", "3.2"])
def series(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def script(tmp_path: Path):
    """Return a function that writes a script to a folder of its own, and returns its path."""

    def write(text: str) -> Path:
        path = tmp_path / "scripts" / "a script.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return path

    return write


@pytest.fixture
def server() -> Iterator[str]:
    """Start a server on loopback, outside of the private GIMP, and yield its address."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"hello from outside")

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}/"
        running.shutdown()


def test_a_script_runs_as_python_would_run_it(installer, series, script, tmp_path):
    path = script(
        "import os, sys\n"
        "import neighbour\n"
        "from gi.repository import Gimp\n"
        "print(sys.argv[1:], __name__, neighbour.WORD, os.getcwd())\n"
        "print(sys.argv[0], __file__)\n"
        "print('.'.join(Gimp.version().split('.')[:2]), 'é 复古')\n"
        "print(Gimp.get_pdb().procedure_exists('dimilinks-edit'))\n"
        "print('aside', file=sys.stderr)\n"
    )
    path.with_name("neighbour.py").write_text("WORD = 'neighbour'")
    done = installer("host", "--gimp", series, path, "--gimp", "b c", "", "复古")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        f"['--gimp', 'b c', '', '复古'] __main__ neighbour {CHECKOUT}",
        f"{path} {path}",
        f"{series} é 复古",
        "True",
    ]
    # GIMP's own output is not passed on.
    assert done.stderr.splitlines()[-1] == "aside"
    assert "GIMP-Warning" not in done.stderr


@pytest.mark.parametrize(
    ("text", "code", "words"),
    [
        ("print('all'); raise ValueError('no good')", 1, "ValueError: no good"),
        ("import sys; print('all'); sys.exit(3)", 1, ""),
        ("import sys; print('all'); sys.exit('a reason')", 1, "a reason\n"),
        ("import sys; print('all'); sys.exit(0)", 0, ""),
        ("print('all', flush=True)\nimport os; os.abort()", 1, "GIMP ended before the script did"),
        ("print('all'\n", 1, "SyntaxError"),
    ],
)
def test_the_exit_code_is_the_scripts(installer, script, text, code, words):
    done = installer("host", script(text))
    assert done.returncode == code
    assert done.stdout == ("all\n" if "Syntax" not in words else "")
    assert words in done.stderr


def test_a_traceback_shows_the_script_alone(installer, script):
    path = script("def f():\n    1 / 0\nf()\n")
    traceback = installer("host", path).stderr
    assert f'File "{path}", line 3' in traceback
    assert "host_script" not in traceback


def test_output_is_seen_while_the_script_runs(script):
    path = script("import time\nprint('now')\ntime.sleep(5)\nprint('later')\n")
    command = [sys.executable, "-m", "installer", "host", str(path)]
    with subprocess.Popen(command, cwd=CHECKOUT, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"now\n"
        seen = time.monotonic()
        assert process.stdout.read() == b"later\n"
        assert time.monotonic() - seen > 4


def test_long_output_arrives_whole(installer, script):
    done = installer("host", script("print('x' * 3_000_000)"))
    assert len(done.stdout) == 3_000_001


def test_shared_folders_are_writable_at_the_same_path(installer, series, script):
    # Don't use /tmp, which is the machine's own for the script even if it is not shared.
    base = Path("/var/tmp") / f"dimilinks test {os.getpid()}"
    shared = base / "a" / "shared ü"
    shared.mkdir(parents=True)
    other = base / "b"
    other.mkdir()
    link = base / "link"
    link.symlink_to(other)
    try:
        path = script(
            "import pathlib, sys\nfor f in sys.argv[1:]: pathlib.Path(f, 'made').write_text('in')\n"
        )
        arguments = ["--gimp", series, "--share", shared, "--share", link]
        done = installer("host", *arguments, path, shared, link, other)
        assert done.returncode == 0, done.stderr
        assert (shared / "made").read_text() == "in"
        assert (other / "made").read_text() == "in"
    finally:
        subprocess.run(["rm", "-rf", base], check=True)


def test_relative_paths_work_in_a_shared_folder(installer, script, tmp_path):
    path = script("import sys\nprint(sys.argv[0], open(sys.argv[1]).read(), __file__)\n")
    (path.parent / "data.txt").write_text("data")
    done = installer(
        "host", path.name, "data.txt", cwd=path.parent, env={**os.environ, "PYTHONPATH": CHECKOUT}
    )
    assert done.stdout == f"{path.name} data {path}\n"


def test_the_checkout_can_be_read_but_not_changed(installer, script, series):
    with PrivateGimp(series) as gimp:
        if gimp.gimp.root is None:
            pytest.skip("the machine's own GIMP sees the machine")
    path = script(f"open({str(CHECKOUT / 'README.new')!r}, 'w')")
    done = installer("host", "--gimp", series, path)
    assert done.returncode == 1
    assert "Read-only file system" in done.stderr


def test_environment_is_clean(installer, script, monkeypatch, user, tmp_path):
    monkeypatch.setenv("SECRET_TOKEN", "secret")
    monkeypatch.setenv("DIMILINKS_BASE_URL", "http://127.0.0.1:1/v1")
    monkeypatch.delenv("DIMILINKS_HOME")
    path = script(
        "import os\n"
        "for name in ('SECRET_TOKEN', 'DIMILINKS_BASE_URL', 'DIMILINKS_HOME', 'HOME', 'TMPDIR'):\n"
        "    print(os.environ.get(name))\n"
    )
    # The environment and the cache belong to the real user; the rest is private to the run.
    answers = installer("host", path).stdout.splitlines()
    assert answers[:2] == ["None", "http://127.0.0.1:1/v1"]
    for folder in answers[2:]:
        assert not Path(folder).is_relative_to(user)
        assert not Path(folder).exists()
    assert not (user / ".config").exists()


def test_a_given_home_is_used_and_kept(installer, script, tmp_path, monkeypatch):
    home = tmp_path / "jobs" / "home"
    monkeypatch.setenv("DIMILINKS_HOME", str(home))
    path = script("import os; open(os.environ['DIMILINKS_HOME'] + '/kept', 'w').close()")
    assert installer("host", path).returncode == 0
    assert (home / "kept").is_file()


def test_loopback_reaches_a_server_outside(installer, series, script, server):
    text = "import sys, urllib.request as u; print(u.urlopen(sys.argv[1]).read().decode())"
    done = installer("host", "--gimp", series, script(text), server)
    assert done.stdout == "hello from outside\n"


def test_the_worker_runs_beside_gimp(installer, series, script):
    text = (
        "import pathlib, subprocess\n"
        "from gi.repository import Gimp\n"
        "folder = pathlib.Path(Gimp.directory(), 'plug-ins', 'dimilinks_gimp')\n"
        "python = (folder / 'worker-python.txt').read_text().strip()\n"
        "code = 'import requests, PIL.Image, numpy, cv2, multipart; print(1)'\n"
        "subprocess.run([python, '-c', code], check=True)\n"
    )
    assert installer("host", "--gimp", series, script(text)).stdout == "1\n"


def test_runs_at_once_do_not_meet(script):
    path = script(
        "import time\nfrom gi.repository import Gimp\nprint(Gimp.directory())\ntime.sleep(3)\n"
    )
    command = [sys.executable, "-m", "installer", "host", str(path)]
    runs = [subprocess.Popen(command, cwd=CHECKOUT, stdout=subprocess.PIPE) for _ in range(3)]
    answers = {run.communicate()[0] for run in runs}
    assert [run.returncode for run in runs] == [0, 0, 0]
    assert len(answers) == 3


@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_run_leaves_nothing(script, kind):
    path = script(
        "import os, time\nfrom gi.repository import Gimp\n"
        "print(os.getpid(), Gimp.directory(), flush=True)\ntime.sleep(600)\n"
    )
    # A shell makes its background processes ignore SIGINT: the tests too, and what they start.
    command = ["env", "--default-signal=INT", sys.executable, "-m", "installer", "host", str(path)]
    with subprocess.Popen(
        command, cwd=CHECKOUT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        number, folder = process.stdout.readline().split()
        process.send_signal(kind)
        assert process.wait(30) == 128 + kind
        assert "Traceback" not in process.stderr.read()
    assert not Path(folder).exists()
    deadline = time.monotonic() + 5
    while Path("/proc", number).exists():
        assert time.monotonic() < deadline, "the script is still running"
        time.sleep(0.05)


def test_no_such_script_is_a_sentence(installer):
    done = installer("host", "/nowhere/script.py")
    assert done.returncode == 1
    assert done.stderr.endswith("There is no script /nowhere/script.py.\n")


@pytest.mark.parametrize("folder", ["/", "/usr", "/etc", "/usr/share/doc", "/nowhere"])
def test_folders_that_would_hide_gimp_are_refused(folder):
    with pytest.raises(Failure, match="can't be shared"):
        check_share(Path(folder))
