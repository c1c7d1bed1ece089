"""Malicious services and broken HTTP: nothing hangs, no secret leaks, nothing is paid twice."""

from __future__ import annotations

import base64
import contextlib
import gc
import gzip
import io
import json
import re
import socket
import subprocess
import time
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
import requests
from PIL import Image

from plugin import history, job, settings
from plugin.errors import Failure, Kind, NotAccepted
from plugin.region import Box, plan
from plugin.worker.pictures import formats, png_files
from plugin.worker.service import api, form, links, network_errors, patience, upload
from plugin.worker.service.api import Service
from plugin.worker.service.form import Form
from tests.service.raw_server import Got, RawServer, Reply, dripping, endless, http
from tests.service.workers import command

# If requests can't read an answer, it leaves the connection open until it is garbage-collected.
pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

FORM = Form("/images/edits", "text/plain", b"edit")
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.fixture
def key(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("DIMILINKS_API_KEY", "sk-planted/key+1")
    monkeypatch.setattr(patience, "FETCHES", (0, 0))
    return "sk-planted/key+1"


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Limit the time for an answer to one second."""
    monkeypatch.setattr(settings, "read_seconds", lambda: 1.0)
    monkeypatch.setattr(api, "_QUESTION_SECONDS", 1.0)
    monkeypatch.setattr(api, "_FETCH_SECONDS", 1.0)


def only_post() -> job.Post:
    (only,) = history.all_jobs()
    (post,) = only.read_state().posts
    return post


# --- answers that are not HTTP, or never end ----------------------------------------------------

BROKEN = [
    b"",
    b"\0" * 100,
    b"HTTP/1.1 200 OK\r\nContent-Length: 5, 7\r\n\r\n{}",
    b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 7\r\n\r\n{}",
    b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n{}",
    b"HTTP/1.1 200 OK\r\nContent-Length: 10000\r\n\r\n{}",
    b"HTTP/1.1 200 OK\r\n" + b"X-A: b\r\n" * 1000 + b"\r\n{}",
    b"HTTP/1.1 200 OK\r\nX: " + b"y" * 100_000 + b"\r\n\r\n{}",
    b"HTTP/1.1 999999 \r\n\r\n",
    b"HTTP/9.9 200 OK\r\n\r\n{}",
    CHUNKED + b"zz\r\n{}\r\n",
    CHUNKED + b"-5\r\n{}\r\n",
    CHUNKED + b"ffffffffffffffffff\r\n{}\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\nno gzip at all",
    b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip, gzip, gzip, gzip, gzip, gzip\r\n\r\n{}",
]


@pytest.mark.parametrize("reply", BROKEN)
def test_a_broken_answer_to_a_post_leaves_an_unknown_outcome(
    reply: bytes, key: str, hasty: None
) -> None:
    with RawServer(lambda got: reply) as server, pytest.raises(Failure) as raised:
        Service(server.base_url, key).send(FORM)
        raise Failure(Kind.OUTCOME_UNKNOWN, "an answer without a picture")
    assert raised.value.kind == Kind.OUTCOME_UNKNOWN and server.posts == 1


@pytest.mark.parametrize(
    "location", ["http://[::1", "//[", "http://\xff\xfe/", "\x01", "https://a:b:c/", "x" * 70_000]
)
@pytest.mark.parametrize("status", [301, 302, 307])
def test_a_redirect_that_leads_nowhere_is_a_refusal(status: int, location: str, key: str) -> None:
    reply = http(status, b"", f"Location: {location}")
    with RawServer(lambda got: reply) as server, pytest.raises(Failure) as raised:
        Service(server.base_url, key).send(FORM)
    assert raised.value.kind in (Kind.REFUSED, Kind.OUTCOME_UNKNOWN)
    assert "Nothing could be sent" not in str(raised.value) and str(raised.value).isprintable()
    assert server.posts == 1


SLOW = [
    # Each byte arrives just before the socket's time limit.
    dripping(b"", b"H", 0.9),
    dripping(b"HTTP/1.1 200 OK\r\nX: "),
    dripping(b"HTTP/1.1 200 OK\r\n", b"A: b\r\n", 0.3),
    dripping(b"HTTP/1.1 200 OK\r\nContent-Length: 60000\r\n\r\n"),
    dripping(b"HTTP/1.1 200 OK\r\n\r\n"),
    dripping(CHUNKED + b"ffff\r\n"),
    dripping(CHUNKED, b"1\r\nx\r\n"),
    dripping(b"HTTP/1.1 302 X\r\nLocation: /elsewhere\r\n\r\n"),
    dripping(b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 100 Continue\r\n\r\n"),
]


@pytest.mark.parametrize("reply", SLOW)
@pytest.mark.slow
def test_an_answer_byte_by_byte_has_an_end(reply: Reply, key: str, hasty: None) -> None:
    asked = None
    with RawServer(lambda got: reply) as server:
        asked = Service(server.base_url, key)
        for ask in (
            lambda: asked.send(FORM),
            lambda: asked.task("img_1"),
            lambda: asked._fetch(f"{server.base_url}/p/img/1/0?exp=1&sig=s"),
        ):
            began = time.monotonic()
            with pytest.raises((Failure, network_errors.Stumbled)) as raised:
                ask()
            assert time.monotonic() - began < 6
            assert re.search("in time|has moved|only leads to further links", str(raised.value))


ENDLESS = [
    endless(b"HTTP/1.1 200 OK\r\nContent-Length: 5000000000\r\n\r\n"),
    endless(b"HTTP/1.1 200 OK\r\n\r\n"),
    endless(CHUNKED, b"ffff\r\n" + b"x" * 65535 + b"\r\n"),
    endless(b"HTTP/1.1 302 X\r\nLocation: /elsewhere\r\n\r\n"),
    endless(b"HTTP/1.1 500 X\r\n\r\n"),
]


@pytest.mark.parametrize("reply", ENDLESS)
def test_an_answer_without_end_is_read_to_its_limit(
    reply: Reply, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settings, "read_seconds", lambda: 10.0)
    monkeypatch.setattr(api, "_ANSWER_BYTES", 3_000_000)
    monkeypatch.setattr(formats, "FOREIGN_BYTES", 3_000_000)
    began = time.monotonic()
    with RawServer(lambda got: reply) as server:
        asked = Service(server.base_url, key)
        with pytest.raises(Failure, match=r"too long|has moved") as raised:
            asked.send(FORM)
        assert raised.value.kind in (Kind.OUTCOME_UNKNOWN, Kind.REFUSED)
        with pytest.raises((Failure, network_errors.Stumbled)):
            asked.task("img_1")
        with pytest.raises((Failure, network_errors.Stumbled)):
            asked._fetch(f"{server.base_url}/p/img/1/0")
    assert time.monotonic() - began < 8


def test_a_task_that_an_endless_answer_names_is_not_lost(
    key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api, "_ANSWER_BYTES", 3_000_000)
    head = b"HTTP/1.1 200 OK\r\n\r\n" + b'{"task_id": "img_1", "data": [{"b64_json": "'
    with RawServer(lambda got: endless(head)) as server:
        answer = Service(server.base_url, key).send(FORM)
    assert answer.task == "img_1" and not answer.complete


@pytest.mark.parametrize("times", [1, 2, 3])
@pytest.mark.slow
def test_a_compressed_bomb_stays_small(
    times: int, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = gzip.compress(bytes(200_000_000), 9)
    for _ in range(times - 1):
        data = gzip.compress(data, 9)
    encodings = ", ".join(["gzip"] * times)
    reply = http(200, data, f"Content-Encoding: {encodings}")
    monkeypatch.setattr(api, "_ANSWER_BYTES", 3_000_000)
    with RawServer(lambda got: reply) as server:
        tracemalloc.start()
        try:
            with pytest.raises(Failure, match="too long"):
                Service(server.base_url, key).send(FORM)
            assert tracemalloc.get_traced_memory()[1] < 40_000_000
        finally:
            tracemalloc.stop()


def _until_tried(connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 200 Connection established\r\n")
    with contextlib.suppress(OSError):
        for _ in range(200):
            connection.sendall(b"X-Wait: a moment\r\n")
            time.sleep(0.1)


@pytest.mark.slow
def test_a_proxy_that_never_opens_its_tunnel_is_given_up(
    key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each line of its answer arrives in time, but there is no end of them."""
    monkeypatch.setattr(settings, "connect_seconds", lambda: 0.5)
    with RawServer(lambda got: _until_tried) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{proxy.port}")
        for name in ("NO_PROXY", "no_proxy"):
            monkeypatch.delenv(name, raising=False)
        began = time.monotonic()
        with pytest.raises(NotAccepted, match="Nothing was sent"):
            Service("https://dimilinks.test/v1", key).send(FORM)
    assert time.monotonic() - began < 10
    # Close the open sockets here. In a later test, their warning would be an error.
    gc.collect()


# --- messages of the service --------------------------------------------------------------------


def _forms(key: str) -> list[str]:
    """Return the forms in which an answer may contain the key."""
    return [
        key,
        "sk-planted%2Fkey%2B1",
        "sk-planted%2fkey%2b1",
        base64.b64encode(key.encode()).decode(),
        base64.b64encode(f"Bearer {key}".encode()).decode(),
        base64.b64encode(f"me:{key}".encode()).decode(),
        base64.urlsafe_b64encode(key.encode()).decode().rstrip("="),
        key.encode().hex(),
    ]


def _quoting(quoted: str) -> list[bytes]:
    """Return answers that contain `quoted` and signed links."""
    words = json.dumps({"error": {"message": f"no {quoted} here, sig=abcdefgh"}}).encode()
    return [
        http(401, words),
        http(500, words),
        http(400, f"<title>no {quoted} here?sig=abcdefgh</title>".encode()),
        http(400, f"no {quoted} here &sig=abcdefgh".encode()),
        http(307, b"", f"Location: https://{quoted}/v1?sig=abcdefgh"),
        http(307, b"", f"Location: https://{quoted}@elsewhere.example/v1?sig=abcdefgh"),
        http(307, b"", f"Location: https://{quoted}/v1/images/edits?sig=abcdefgh"),
        http(307, b"", f"Location: https://u:{quoted}@x.example/v1/images/edits?sig=abcdefgh"),
        http(307, b"", f"Location: https://x.example/{quoted}/v1/images/edits?sig=abcdefgh"),
        http(400, b"", f"X-Key: {quoted}", f"Set-Cookie: key={quoted}"),
        http(200, json.dumps({"data": [{"url": f"https://{quoted}@x.example/"}]}).encode()),
        http(200, json.dumps({"data": [{"url": f"http://{quoted.lower()}/?sig=abc"}]}).encode()),
        http(200, json.dumps({"task_id": quoted, "data": []}).encode()),
        http(200, json.dumps({"data": [{"url": f"/p/{quoted}?sig=abcdefgh"}]}).encode()),
    ]


@pytest.mark.parametrize("number", range(8))
@pytest.mark.slow
def test_a_key_is_known_again_in_every_form(
    number: int, key: str, photo: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quoted = _forms(key)[number]
    said = ""
    for reply in _quoting(quoted):
        gone = http(404, f"no {quoted} here".encode())
        with RawServer(lambda got, r=reply, g=gone: r if got.method == "POST" else g) as server:
            monkeypatch.setenv("DIMILINKS_BASE_URL", server.base_url)
            done = command("edit", photo, "--prompt", "x")
        assert done.returncode == 1 and "Traceback" not in done.stderr
        said += done.stderr + done.stdout
    left = b"".join(f.read_bytes() for f in home.rglob("*") if f.is_file()).decode("latin-1")
    for secret in (quoted, quoted.lower(), key, "sig="):
        assert secret not in said and secret not in left


@pytest.mark.slow
def test_words_of_the_service_can_not_steer_a_terminal_or_turn_a_line(
    key: str, photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    odd = "a\x1b[2Jb\u202ec\u2066d\x00e\u200bf\u2028g\x9bh\ufeffi"
    for reply in (
        http(400, json.dumps({"error": {"message": odd}}).encode()),
        http(400, json.dumps({"error": odd}).encode()),
        http(502, odd.encode()),
        http(307, b"", "Location: https://a\x9b\x1b[2Jb/"),
        http(200, json.dumps({"data": [{"url": f"https://{odd}/x"}]}).encode()),
        http(200, json.dumps({"task_id": odd, "data": [{"url": "x"}]}).encode()),
    ):
        with RawServer(lambda got, reply=reply: reply) as server:
            monkeypatch.setenv("DIMILINKS_BASE_URL", server.base_url)
            said = command("edit", photo, "--prompt", "x").stderr
        assert said and all(line.isprintable() for line in said.splitlines()), ascii(said)


def test_what_is_unforeseen_tells_neither_key_nor_link(
    key: str, photo: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: Service, url: str) -> bytes:
        try:
            raise requests.ConnectionError(f"no {url} with {key}")
        except requests.ConnectionError as error:
            raise RuntimeError(f"{key} {url}") from error

    monkeypatch.setattr(Service, "_fetch", broken)
    answer = http(200, b'{"data": [{"url": "/p/img/1/0?exp=1&sig=abcdefgh"}]}')
    with RawServer(lambda got: answer) as server:
        monkeypatch.setenv("DIMILINKS_BASE_URL", server.base_url)
        done = command("edit", photo, "--prompt", "x")
    assert "An unexpected error occurred" in done.stderr and "RuntimeError" in done.stderr
    left = b"".join(f.read_bytes() for f in home.rglob("*") if f.is_file()).decode("latin-1")
    for secret in (key, "sig=", "abcdefgh"):
        assert secret not in done.stderr and secret not in left


# --- links --------------------------------------------------------------------------------------

BAD_LINKS = [
    "file:///etc/passwd",
    "ftp://example.com/x",
    "gopher://127.0.0.1/x",
    "http://example.com/x",
    "//127.0.0.1:9/x",
    "https://localhost/x",
    "https://127.1/x",
    "https://2130706433/x",
    "https://0x7f000001/x",
    "https://0177.0.0.1/x",
    "https://0/x",
    "https://[::1]/x",
    "https://[::]/x",
    "https://[::ffff:127.0.0.1]/x",
    "https://[::ffff:10.0.0.1]/x",
    "https://[::ffff:a00:1]/x",
    "https://[fe80::1%25eth0]/x",
    "https://[fc00::1]/x",
    "https://169.254.169.254/latest/meta-data",
    "https://192.168.0.1/x",
    "https://172.16.0.1/x",
    "https://100.64.0.1/x",
    "https://224.0.0.1/x",
    "https://255.255.255.255/x",
    "https://example.com@127.0.0.1/x",
    "https://127.0.0.1\\.example.com/x",
    "https://127.0.0.1%2f.example.com/x",
    "https://example.com\r\nHost: evil/x",
    "https://exa mple.com/x",
    "https:/\\127.0.0.1/x",
    "https:///x",
    "https://",
]


@pytest.mark.parametrize("link", BAD_LINKS)
def test_no_link_leads_to_a_private_place(link: str, key: str) -> None:
    asked: list[Got] = []

    def answer(got: Got) -> Reply:
        asked.append(got)
        return http(302, b"", f"Location: {link}".replace("\r\n", " "))

    with RawServer(answer) as server:
        own = Service(server.base_url, key)
        with pytest.raises(Failure, match="not followed") as raised:
            own.picture(api.Answer("", (link,)))
        assert asked == [] and str(raised.value).isprintable()
        # A redirect to the link is not followed either.
        with pytest.raises((Failure, network_errors.Stumbled)) as raised_later:
            own.picture(api.Answer("", ("/p/img/1/0",)))
        assert "not followed" in str(raised_later.value) or "answered" in str(raised_later.value)
        assert len(asked) <= 4


def test_a_name_that_leads_to_a_private_address_is_not_followed(
    key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def looked_up(host: str, *_: Any, **__: Any) -> list[Any]:
        public, private = ("93.184.215.14", 443), ("10.0.0.7", 443)
        return [(2, 1, 6, "", address) for address in (public, private)]

    monkeypatch.setattr(links.socket, "getaddrinfo", looked_up)
    with pytest.raises(Failure, match="not followed"):
        Service("https://dimilinks.com/v1", key).picture(api.Answer("", ("https://cdn.x/y",)))


def test_redirects_of_a_picture_have_an_end_and_never_carry_the_key(key: str) -> None:
    with RawServer(lambda got: http(302, b"", "Location: /again")) as server:
        with pytest.raises(Failure, match="only leads to further links"):
            Service(server.base_url, key).picture(api.Answer("", ("/p/img/1/0",)))
        assert len(server.got) == 4
        assert not any(b"uthorization" in got.head for got in server.got)


@pytest.mark.parametrize(
    "kind", ["image/png", "text/html", "image/svg+xml", "", "application/x-executable;a=b"]
)
def test_a_data_link_is_judged_by_its_bytes(kind: str, key: str, coffee: Image.Image) -> None:
    asked = Service("https://dimilinks.com/v1", key)
    encoded = base64.b64encode(png_files.encoded(coffee)).decode()
    data = asked.picture(api.Answer("", (f"data:{kind};base64,{encoded}",)))
    assert formats.read_foreign(data).size == coffee.size


# --- prompts ------------------------------------------------------------------------------------

PROMPTS = [
    'a"b\r\nContent-Disposition: form-data; name="model"\r\n\r\nother',
    "a\0b",
    "--boundary--\r\n",
    "a\u202eb\u2028c",
    '"; filename="../../x',
    '{"model": "x"}',
]


@pytest.mark.parametrize("route", settings.ROUTES)
@pytest.mark.parametrize("prompt", PROMPTS, ids=range(len(PROMPTS)))
def test_a_prompt_stays_a_prompt(prompt: str, route: str, coffee: Image.Image) -> None:
    planned = plan(Box(0, 0, *coffee.size), Box(0, 0, *coffee.size))
    built = upload.build(planned, coffee, None, [])
    made = form.build(route, prompt, "gpt-image-2", "3:2", "1k", built)
    assert "\r" not in made.content_type and "\n" not in made.content_type
    if route == settings.ASYNC:
        asked = json.loads(made.body)
        assert (asked["prompt"], asked["model"]) == (prompt, "gpt-image-2")
        return
    import multipart

    boundary = made.content_type.partition("boundary=")[2]
    parts = {part.name: part for part in multipart.MultipartParser(io.BytesIO(made.body), boundary)}
    assert parts["prompt"].value == prompt and parts["model"].value == "gpt-image-2"
    assert set(parts) == {"prompt", "model", "size", "resolution", "image"}
    assert parts["image"].filename == "source.png"


# --- addresses and proxies ----------------------------------------------------------------------


def test_a_service_on_ipv6_loopback_is_reached_and_told_who_asks(key: str) -> None:
    try:
        server = RawServer(lambda got: http(200, b'{"task_id": "img_1", "data": []}'), "::1")
    except OSError:
        pytest.skip("no IPv6 here")
    with server:
        assert Service(settings.check_base_url(server.base_url), key).send(FORM).task == "img_1"
    (got,) = server.got
    assert b"User-Agent: dimilinks-gimp/" in got.head
    assert f"Authorization: Bearer {key}".encode() in got.head


PROXY = "http://me:pr0xy-secret@{}"


@pytest.mark.parametrize("variable", ["HTTPS_PROXY", "https_proxy", "ALL_PROXY"])
@pytest.mark.slow
def test_the_environments_proxy_is_used_and_its_password_is_not_told(
    variable: str, key: str, photo: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The proxy refuses, but its requests show that it was used."""
    monkeypatch.setenv("DIMILINKS_BASE_URL", "https://dimilinks.example/v1")
    with RawServer(lambda got: http(407, b"who are you")) as proxy:
        monkeypatch.setenv(variable, PROXY.format(f"127.0.0.1:{proxy.port}"))
        done = command("edit", photo, "--prompt", "x")
        asked = command("service", "--test")
        assert proxy.got and all(got.method == "CONNECT" for got in proxy.got)
        assert all(got.path == "dimilinks.example:443" for got in proxy.got)
        # The proxy gets its own password, but must not get the API key.
        assert not any(key.encode() in got.head for got in proxy.got)
        count = len(proxy.got)
        monkeypatch.setenv("NO_PROXY", "dimilinks.example")
        monkeypatch.setattr(patience, "CONNECTING", 0)
        around = command("edit", photo, "--prompt", "x")
        assert len(proxy.got) == count
    assert "the proxy could not be used" in done.stderr
    _nowhere(home, done, asked, around)


@pytest.mark.parametrize(
    "place", ["[bad", "127.0.0.1:port", "127.0.0.1:99999", "", "a b", "\x01", "ä\ud800"[:1] + "..x"]
)
@pytest.mark.parametrize("scheme", ["http", "strange", "socks5"])
@pytest.mark.slow
def test_a_proxy_that_can_not_be_is_told_without_its_password(
    place: str, scheme: str, key: str, photo: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DIMILINKS_BASE_URL", "https://dimilinks.example/v1")
    monkeypatch.setenv("HTTPS_PROXY", PROXY.format(place).replace("http", scheme, 1))
    done = command("edit", photo, "--prompt", "x")
    assert done.returncode == 1 and "may have been charged" not in done.stderr
    assert only_post().kind in (Kind.SETUP, Kind.UNREACHABLE)
    _nowhere(home, done, command("service", "--test"))


def _nowhere(home: Path, *done: subprocess.CompletedProcess[str]) -> None:
    left = b"".join(f.read_bytes() for f in home.rglob("*") if f.is_file()).decode("latin-1")
    for text in (left, *(each.stdout + each.stderr for each in done)):
        assert "pr0xy-secret" not in text and "Traceback" not in text


@pytest.mark.parametrize("variable", ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE"])
def test_a_missing_bundle_of_certificates_is_told(
    variable: str, key: str, photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DIMILINKS_BASE_URL", "https://127.0.0.1:1/v1")
    monkeypatch.setattr(settings, "is_loopback", lambda host: False)
    for other in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE"):
        monkeypatch.delenv(other, raising=False)
    monkeypatch.setenv(variable, "/nowhere/at/all.pem")
    done = command("edit", photo, "--prompt", "x")
    assert "Nothing could be sent: the certificate file is missing" in done.stderr
    assert only_post().kind == Kind.SETUP
