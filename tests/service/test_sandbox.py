"""The sandbox, tested over HTTP like a service, with photographs and their edited versions."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import requests
import skimage.data
from openai import OpenAI
from PIL import Image, ImageDraw

from plugin.region import RATIOS
from plugin.worker.sandbox import Sandbox, model
from plugin.worker.sandbox.misbehaviour import PRESETS
from plugin.worker.sandbox.server import answer_size

KEY = {"Authorization": "Bearer sk-test"}
COFFEE = Image.fromarray(skimage.data.coffee())
CAT = Image.fromarray(skimage.data.chelsea())
ASTRONAUT = Image.fromarray(skimage.data.astronaut())


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    with Sandbox() as running:
        yield running


def png(picture: Image.Image) -> bytes:
    out = io.BytesIO()
    picture.save(out, "PNG", compress_level=1)
    return out.getvalue()


def post(sandbox: Sandbox, files: list[Any], **fields: str) -> requests.Response:
    """Send an edit. `files` are pictures, or tuples of a field's name and a picture or bytes."""
    sent = []
    for number, file in enumerate(files):
        field, data = file if isinstance(file, tuple) else ("image", file)
        if isinstance(data, Image.Image):
            data = png(data)
        sent.append((field, (f"{number}.png", data, "image/png")))
    return requests.post(
        f"{sandbox.base_url}/images/edits", headers=KEY, data=fields, files=sent, timeout=60
    )


def fetch(sandbox: Sandbox, response: requests.Response) -> bytes:
    assert response.status_code == 200, response.text
    got = requests.get(sandbox.origin + response.json()["data"][0]["url"], timeout=60)
    assert got.status_code == 200, got.text
    return got.content


def edited(sandbox: Sandbox, prompt: str, files: list[Any], **fields: str) -> Image.Image:
    response = post(sandbox, files, prompt=prompt, **fields)
    picture = Image.open(io.BytesIO(fetch(sandbox, response)))
    assert picture.format == "PNG"
    assert picture.mode == "RGB"
    return picture


def lab(picture: Image.Image) -> np.ndarray:
    return cv2.cvtColor(np.asarray(picture.convert("RGB"), np.float32) / 255, cv2.COLOR_RGB2LAB)


def at(picture: Image.Image, size: tuple[int, int]) -> Image.Image:
    return picture.resize(size, Image.Resampling.BICUBIC)


def sharpness(picture: np.ndarray) -> float:
    """Return the amount of detail that is a few pixels wide, coarser than grain."""
    light = picture[..., 0]
    return float((cv2.GaussianBlur(light, (0, 0), 2) - cv2.GaussianBlur(light, (0, 0), 5)).std())


def assert_error(response: requests.Response, status: int, code: str) -> str:
    assert response.status_code == status, response.text
    assert response.headers["Content-Type"] == "application/json"
    error = response.json()["error"]
    assert set(error) == {"message", "type", "code"}
    assert error["code"] == code
    assert error["message"].endswith(".")
    return str(error["message"])


# --- the documented interface -----------------------------------------------------------------


def curl(*arguments: str) -> Any:
    assert shutil.which("curl"), "these tests run the contract's examples with curl"
    run = subprocess.run(
        ["curl", "--silent", "--show-error", "--max-time", "60", *arguments],
        capture_output=True,
        check=True,
    )
    return json.loads(run.stdout)


def assert_answer(answer: Any) -> str:
    """Check the form of an answer, and return its link."""
    assert set(answer) == {"created", "task_id", "data"}
    assert abs(answer["created"] - time.time()) < 60
    assert isinstance(answer["created"], int)
    assert answer["task_id"].startswith("img_")
    [result] = answer["data"]
    assert set(result) == {"url", "file_id"}
    assert result["file_id"].startswith("file_")
    link = str(result["url"])
    assert link.startswith(f"/p/img/{answer['task_id']}/0?exp=")
    expiry = int(link.split("exp=")[1].split("&sig=")[0])
    assert abs(expiry / 1000 - time.time() - 24 * 3600) < 60
    return link


@pytest.mark.slow
def test_the_contracts_example_with_one_picture(sandbox: Sandbox, tmp_path: Path) -> None:
    COFFEE.save(tmp_path / "reference.png")
    answer = curl(
        f"{sandbox.base_url}/images/edits",
        *("-H", "Authorization: Bearer sk-test"),
        *("-F", "model=gpt-image-2"),
        *("-F", "prompt=把图片改成复古胶片风格,保留主体"),
        *("-F", "size=16:9"),
        *("-F", "resolution=2k"),
        *("-F", f"image=@{tmp_path}/reference.png"),
    )
    link = assert_answer(answer)
    data = requests.get(sandbox.origin + link, timeout=60).content
    assert Image.open(io.BytesIO(data)).size == (2048, 1152)
    [edit] = sandbox.edits
    assert edit.fields["prompt"] == "把图片改成复古胶片风格,保留主体"
    assert [file[:3] for file in edit.files] == [("image", "reference.png", "image/png")]
    assert edit.files[0].data == (tmp_path / "reference.png").read_bytes()


@pytest.mark.slow
def test_the_contracts_example_with_two_pictures(sandbox: Sandbox, tmp_path: Path) -> None:
    COFFEE.save(tmp_path / "ref-1.png")
    CAT.save(tmp_path / "ref-2.png")
    answer = curl(
        f"{sandbox.base_url}/images/edits",
        *("-H", "Authorization: Bearer sk-test"),
        *("-F", "model=gpt-image-2"),
        *("-F", "prompt=融合两张参考图的风格,生成电商主图"),
        *("-F", "size=1:1"),
        *("-F", "resolution=4k"),
        *("-F", f"image[]=@{tmp_path}/ref-1.png"),
        *("-F", f"image[]=@{tmp_path}/ref-2.png"),
    )
    data = requests.get(sandbox.origin + assert_answer(answer), timeout=60).content
    assert Image.open(io.BytesIO(data)).size == (2880, 2880)
    assert [file.field for file in sandbox.edits[0].files] == ["image[]", "image[]"]


@pytest.mark.slow
def test_the_openai_sdk_as_a_client(sandbox: Sandbox) -> None:
    mask = Image.new("RGBA", COFFEE.size, (0, 0, 0, 255))
    ImageDraw.Draw(mask).ellipse((150, 100, 300, 250), fill=(255, 255, 255, 0))
    client = OpenAI(api_key="sk-test", base_url=sandbox.base_url, max_retries=0)
    one = client.images.edit(
        image=("cup.png", png(COFFEE)),
        mask=("mask.png", png(mask)),
        prompt="black and white",
        model="gpt-image-2",
        size="auto",
    )
    several = client.images.edit(
        image=[("cup.png", png(COFFEE)), ("cat.png", png(CAT))],
        prompt="blend the styles",
        model="gpt-image-2",
    )
    client.close()
    for answer, fields in ((one, ["image", "mask"]), (several, ["image[]", "image[]"])):
        assert answer.data is not None
        link = answer.data[0].url
        assert link is not None
        got = requests.get(sandbox.origin + link, timeout=60)
        assert Image.open(io.BytesIO(got.content)).size == (1008, 672)
        edit = sandbox.edits.pop(0)
        assert [file.field for file in edit.files] == fields
        assert edit.headers["authorization"] == "Bearer sk-test"


@pytest.mark.parametrize(
    "field", ["image", "image[]", "images", "images[]", "image_1", "image_2", "image_12"]
)
def test_every_file_field_of_the_contract(sandbox: Sandbox, field: str) -> None:
    data = png(CAT)
    assert fetch(sandbox, post(sandbox, [(field, data)], prompt="echo")) == data


def test_the_order_that_the_model_sees(sandbox: Sandbox) -> None:
    """The prompt `echo` returns the first picture, so remove the first one each time."""
    colours = ["red", "lime", "blue", "cyan", "magenta"]
    data = [png(Image.new("RGB", (64, 64), colour)) for colour in colours]
    fields = ["mask", "image_10", "image_2", "images[]", "image"]
    files = list(zip(fields, data))
    for expected in (4, 3, 2, 1):
        assert fetch(sandbox, post(sandbox, files, prompt="echo")) == data[expected]
        del files[expected]


@pytest.mark.parametrize("ratio", RATIOS)
def test_every_ratio_and_tier_has_its_size(ratio: str) -> None:
    across, down = (int(number) for number in ratio.split(":"))
    for tier, size in RATIOS[ratio].items():
        assert answer_size(ratio, tier, (500, 500)) == size
        assert answer_size("auto", tier, (across * 100, down * 100 + 3)) == size
    assert answer_size(ratio, "", (9, 9)) == RATIOS[ratio]["1k"]
    assert answer_size("", "2K", (across, down)) == RATIOS[ratio]["2k"]


@pytest.mark.parametrize(
    ("size", "resolution", "answer"),
    [("9:21", "1k", (432, 1008)), ("4:5", "2k", (1600, 2000)), ("1280x720", "4k", (1280, 720))],
)
@pytest.mark.slow
def test_answers_have_the_size_asked_for(
    sandbox: Sandbox, size: str, resolution: str, answer: tuple[int, int]
) -> None:
    assert edited(sandbox, "x", [CAT], size=size, resolution=resolution).size == answer


@pytest.mark.parametrize(
    "form", ["relative", "absolute", "data", "b64_json"], ids=lambda form: str(form)
)
def test_the_forms_in_which_results_are_handed_over(form: Any) -> None:
    data = png(CAT)
    with Sandbox(link_form=form) as sandbox:
        result = post(sandbox, [data], prompt="echo").json()["data"][0]
        assert result["file_id"].startswith("file_")
        if form == "b64_json":
            assert base64.b64decode(result["b64_json"]) == data
        elif form == "data":
            head, encoded = result["url"].split(",")
            assert head == "data:image/png;base64"
            assert base64.b64decode(encoded) == data
        else:
            assert result["url"].startswith(f"{sandbox.origin}/p/" if form == "absolute" else "/p/")
            link = result["url"].removeprefix(sandbox.origin)
            assert requests.get(sandbox.origin + link, timeout=9).content == data


# --- generations and tasks ----------------------------------------------------------------------


def data_url(picture: Image.Image) -> str:
    return f"data:image/png;base64,{base64.b64encode(png(picture)).decode()}"


def generate(
    sandbox: Sandbox, query: str = "", headers: dict[str, str] = KEY, **asked: Any
) -> requests.Response:
    url = f"{sandbox.base_url}/images/generations{query}"
    return requests.post(url, headers=headers, json=asked, timeout=60)


def task(sandbox: Sandbox, name: str, key: str = "sk-test") -> requests.Response:
    headers = {"Authorization": f"Bearer {key}"}
    return requests.get(f"{sandbox.base_url}/tasks/{name}", headers=headers, timeout=9)


def test_a_generation_is_an_edit_with_its_pictures_in_json(sandbox: Sandbox) -> None:
    mask = Image.new("L", CAT.size, 255)
    asked = {
        "model": "gpt-image-2",
        "prompt": "echo",
        "size": "3:2",
        "resolution": "1k",
        "image_urls": [data_url(CAT), data_url(COFFEE)],
        "mask_url": data_url(mask),
        "n": 1,
        "output_format": "png",
    }
    assert fetch(sandbox, generate(sandbox, **asked)) == png(CAT)
    [edit] = sandbox.edits
    assert [f.field for f in edit.files] == ["image", "image[]", "mask"]
    assert [f.data for f in edit.files] == [png(CAT), png(COFFEE), png(mask)]
    assert edit.fields == {k: asked[k] for k in ("model", "prompt", "size", "resolution")}


@pytest.mark.parametrize(
    ("query", "headers", "asked"),
    [
        ("?async=true", {}, {}),
        ("", {"Prefer": "respond-async"}, {}),
        ("", {}, {"wait_for_result": False}),
    ],
)
@pytest.mark.slow
def test_a_task_is_told_from_its_beginning_to_its_end(
    query: str, headers: dict[str, str], asked: dict[str, Any]
) -> None:
    with Sandbox(thinking=0.5) as sandbox:
        began = time.monotonic()
        made = generate(
            sandbox, query, KEY | headers, prompt="echo", image_urls=[data_url(CAT)], **asked
        )
        assert time.monotonic() - began < 0.4 and made.json()["data"] == []
        name = made.json()["task_id"]
        told = []
        while (answer := task(sandbox, name).json())["status"] != "succeeded":
            told.append((answer["status"], answer.get("progress", 0)))
            assert time.monotonic() - began < 9
            time.sleep(0.02)
        assert [status for status, _ in told] == sorted((s for s, _ in told), reverse=True)
        assert {status for status, _ in told} == {"queued", "in_progress"}
        assert [progress for _, progress in told] == sorted(progress for _, progress in told)
        links = [task(sandbox, name).json()["result"]["data"][0]["url"] for _ in range(2)]
        assert links[0] != links[1]
        for link in links:
            assert requests.get(sandbox.origin + link, timeout=9).content == png(CAT)


def test_tasks_belong_to_the_key_that_made_them(sandbox: Sandbox) -> None:
    name = post(sandbox, [CAT], prompt="echo").json()["task_id"]
    assert task(sandbox, name).json()["status"] == "succeeded"
    assert_error(task(sandbox, name, "sk-other"), 404, "not_found")
    assert_error(task(sandbox, "img_0123"), 404, "not_found")
    nobody = requests.get(f"{sandbox.base_url}/tasks/{name}", timeout=9)
    assert_error(nobody, 401, "missing_api_key")


def test_a_generation_that_can_not_be_made_fails_as_a_task(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken(*_arguments: Any) -> None:
        raise ValueError("broken")

    monkeypatch.setattr(model, "edit", broken)
    with Sandbox(balance=1) as sandbox:
        made = generate(sandbox, "?async=true", prompt="x", image_urls=[data_url(CAT)])
        while (answer := task(sandbox, made.json()["task_id"]).json())["status"] != "failed":
            time.sleep(0.02)
        assert set(answer["error"]) == {"code", "message"} and sandbox.balance == 1


@pytest.mark.parametrize(
    ("asked", "code"),
    [
        ({}, "invalid_request_error"),
        ({"prompt": 5}, "invalid_request_error"),
        ({"prompt": "x"}, "invalid_request_error"),
        ({"prompt": "x", "image_urls": "x"}, "invalid_request_error"),
        ({"prompt": "x", "image_urls": [5]}, "invalid_reference_image"),
        ({"prompt": "x", "image_urls": ["https://x.example/a.png"]}, "invalid_reference_image"),
        ({"prompt": "x", "image_urls": ["data:image/png;base64,*"]}, "invalid_reference_image"),
        ({"prompt": "x", "image_urls": [data_url(CAT)], "n": 2}, "invalid_request_error"),
        ({"prompt": "x", "image_urls": [data_url(CAT)], "mask_url": 1}, "invalid_reference_image"),
    ],
    ids=range(9),
)
def test_generations_that_can_not_be_met(sandbox: Sandbox, asked: Any, code: str) -> None:
    assert_error(generate(sandbox, "?async=true", **asked), 400, code)
    for body in (b"{", b"[]"):
        url = f"{sandbox.base_url}/images/generations"
        refused = requests.post(url, headers=KEY, data=body, timeout=9)
        assert_error(refused, 400, "invalid_request_error")
    assert sandbox.edits == []


# --- links ------------------------------------------------------------------------------------


def test_a_link_needs_no_key_and_its_get_is_recorded(sandbox: Sandbox) -> None:
    jpeg = io.BytesIO()
    CAT.save(jpeg, "JPEG")
    link = post(sandbox, [jpeg.getvalue()], prompt="echo").json()["data"][0]["url"]
    got = requests.get(sandbox.origin + link, headers={"X-Own": "1"}, timeout=9)
    assert got.content == jpeg.getvalue()
    assert got.headers["Content-Type"] == "image/jpeg"
    [served] = sandbox.served
    assert served.path == link
    assert served.headers["x-own"] == "1"
    assert "Authorization" not in served.headers


@pytest.mark.slow
def test_only_the_sandboxs_own_links_open_and_only_for_their_time() -> None:
    with Sandbox(link_life=0.6) as sandbox:
        link = post(sandbox, [CAT], prompt="echo").json()["data"][0]["url"]
        path, query = link.split("?")
        expiry, signature = (part.split("=")[1] for part in query.split("&"))

        def get(target: str) -> requests.Response:
            return requests.get(sandbox.origin + target, timeout=9)

        assert get(link).status_code == 200
        assert_error(get(path), 403, "invalid_signature")
        assert_error(get(f"{path}?exp={expiry}&sig=00"), 403, "invalid_signature")
        assert_error(get(f"{path}?exp={expiry}0&sig={signature}"), 403, "invalid_signature")
        assert_error(get(link.replace("/0?", "/1?")), 404, "not_found")
        assert_error(get(f"/p/img/img_0123/0?{query}"), 404, "not_found")
        time.sleep(0.7)
        assert_error(get(link), 403, "link_expired")


# --- refusals ---------------------------------------------------------------------------------


def test_a_key_is_needed_and_must_be_a_known_one() -> None:
    with Sandbox(keys={"sk-test"}) as sandbox:
        url = f"{sandbox.base_url}/images/edits"
        files = {"image": ("a.png", png(CAT))}

        def attempt(headers: dict[str, str]) -> requests.Response:
            return requests.post(
                url, headers=headers, data={"prompt": "echo"}, files=files, timeout=9
            )

        assert_error(attempt({}), 401, "missing_api_key")
        assert_error(attempt({"Authorization": "Bearer "}), 401, "missing_api_key")
        assert_error(attempt({"Authorization": "Bearer sk-other"}), 401, "invalid_api_key")
        assert attempt(KEY).status_code == 200
        assert len(sandbox.edits) == 1


def test_models_need_the_key_and_prices_do_not() -> None:
    with Sandbox(keys={"sk-test"}, prices={"1k": 0.5}) as sandbox:
        models = f"{sandbox.base_url}/models"
        assert_error(requests.get(models, timeout=9), 401, "missing_api_key")
        client = OpenAI(api_key="sk-test", base_url=sandbox.base_url, max_retries=0)
        assert [known.id for known in client.models.list()] == ["gpt-image-2"]
        client.close()
        (entry,) = requests.get(f"{sandbox.origin}/api/pricing", timeout=9).json()["data"]
        assert entry["model_name"] == "gpt-image-2"
        assert entry["resolution_options"] == [{"resolution": "1k", "model_price": 0.5, "max_n": 1}]
        sandbox.pages["/v1/models"] = (200, {}, b"busy")
        assert requests.get(models, timeout=9).text == "busy"


def test_the_balance_runs_out_and_refused_edits_cost_nothing() -> None:
    with Sandbox(balance=1) as sandbox:
        assert post(sandbox, [CAT]).status_code == 400
        assert post(sandbox, [CAT], prompt="echo").status_code == 200
        assert_error(post(sandbox, [CAT], prompt="echo"), 402, "insufficient_balance")
        assert sandbox.balance == 0


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"prompt": "  "},
        {"prompt": "echo", "size": "7:5"},
        {"prompt": "echo", "size": "1000x1000"},  # not multiples of 16
        {"prompt": "echo", "size": "800x800"},  # too few pixels
        {"prompt": "echo", "size": "4096x2160"},  # too many pixels
        {"prompt": "echo", "size": "2048x640"},  # too long
        {"prompt": "echo", "size": "0x0"},
        {"prompt": "echo", "resolution": "8k"},
    ],
    ids=str,
)
def test_fields_that_can_not_be_met(sandbox: Sandbox, fields: dict[str, str]) -> None:
    assert_error(post(sandbox, [CAT], **fields), 400, "invalid_request_error")
    assert sandbox.edits == []


def test_another_model_is_not_allowed(sandbox: Sandbox) -> None:
    refused = post(sandbox, [CAT], prompt="echo", model="gpt-image-9")
    assert_error(refused, 403, "model_not_allowed")


@pytest.mark.slow
def test_pictures_that_can_not_be_used(sandbox: Sandbox) -> None:
    gif, whole = io.BytesIO(), png(CAT)
    CAT.save(gif, "GIF")
    big = whole + bytes(20_000_001 - len(whole))
    bomb = png(Image.new("1", (9000, 9000)))
    for data in (b"no picture", gif.getvalue(), whole[:-9000], big, bomb):
        refused = post(sandbox, [("image", data)], prompt="echo")
        assert "0.png" in assert_error(refused, 400, "invalid_reference_image")
    refused = post(sandbox, [CAT, ("mask", b"")], prompt="echo")
    assert "1.png" in assert_error(refused, 400, "invalid_reference_image")
    assert_error(post(sandbox, [("mask", CAT)], prompt="echo"), 400, "invalid_request_error")
    assert_error(post(sandbox, [("photo", CAT)], prompt="echo"), 400, "invalid_request_error")


def test_nine_pictures_are_the_most_and_the_mask_counts(sandbox: Sandbox) -> None:
    tiles = [Image.new("RGB", (32, 32), (20 * i, 0, 0)) for i in range(9)]
    files = [("image[]", tile) for tile in tiles]
    assert post(sandbox, files, prompt="echo").status_code == 200
    refused = post(sandbox, [*files, ("mask", tiles[0])], prompt="echo")
    assert_error(refused, 400, "invalid_request_error")


@pytest.mark.slow
def test_a_second_file_of_the_same_name_and_length_is_dropped(sandbox: Sandbox) -> None:
    def blended(name: str) -> Image.Image:
        reference = png(ASTRONAUT)
        picture = png(CAT)
        length = max(len(reference), len(picture))
        response = requests.post(
            f"{sandbox.base_url}/images/edits",
            headers=KEY,
            data={"prompt": "blend the styles"},
            files=[
                ("image[]", ("a.png", picture.ljust(length, b"\0"))),
                ("image[]", (name, reference.ljust(length, b"\0"))),
            ],
            timeout=60,
        )
        return Image.open(io.BytesIO(fetch(sandbox, response)))

    alone = edited(sandbox, "blend the styles", [CAT])
    assert blended("a.png").tobytes() == alone.tobytes()
    assert blended("b.png").tobytes() != alone.tobytes()
    assert len(sandbox.edits[-1].files) == 2


def test_too_large_a_request_meets_the_proxy(sandbox: Sandbox, tmp_path: Path) -> None:
    large = bytes(17_000_000)
    refused = post(sandbox, [("image[]", large), ("image[]", large)], prompt="echo")
    assert refused.status_code == 413
    assert refused.headers["Content-Type"] == "text/html"
    assert "<h1>413" in refused.text
    # curl waits for a permission before it sends such a large body.
    (tmp_path / "large.png").write_bytes(large + large)
    run = subprocess.run(
        [
            *("curl", "--silent", "--output", "/dev/null", "--write-out", "%{http_code}"),
            *("-F", f"image=@{tmp_path}/large.png", f"{sandbox.base_url}/images/edits"),
        ],
        capture_output=True,
        check=False,
    )
    assert run.stdout == b"413"
    assert fetch(sandbox, post(sandbox, [CAT], prompt="echo"))


def test_requests_that_are_no_form(sandbox: Sandbox) -> None:
    url = f"{sandbox.base_url}/images/edits"
    for kind in ("application/json", "multipart/form-data", "multipart/form-data; boundary=x"):
        refused = requests.post(url, headers={**KEY, "Content-Type": kind}, data=b"{}", timeout=9)
        assert_error(refused, 400, "invalid_request_error")
    chunked = requests.post(url, headers=KEY, data=iter([b"{}"]), timeout=9)
    assert_error(chunked, 411, "invalid_request_error")


@pytest.mark.parametrize("path", ["/", "/v1/images/edits", "/v1/images/variations", "/p/img/x/0"])
def test_nothing_lives_at_other_addresses(sandbox: Sandbox, path: str) -> None:
    assert_error(requests.get(sandbox.origin + path, timeout=9), 404, "not_found")
    if "edits" not in path:
        refused = requests.post(sandbox.origin + path, headers=KEY, data=b"{}", timeout=9)
        assert_error(refused, 404, "not_found")


# --- prepared answers and failures ------------------------------------------------------------


def test_prepared_answers_come_first_and_in_order(sandbox: Sandbox) -> None:
    limit = {"error": {"message": "Slow down.", "type": "rate_limit", "code": 429}}
    sandbox.answers += [
        (429, {"Retry-After": "1"}, limit),
        (524, {"Content-Type": "text/html"}, b"<html>timeout</html>"),
        None,
    ]
    limited = post(sandbox, [CAT], prompt="echo")
    assert (limited.status_code, limited.headers["Retry-After"]) == (429, "1")
    assert limited.json() == limit
    late = post(sandbox, [CAT], prompt="echo")
    assert (late.status_code, late.text) == (524, "<html>timeout</html>")
    with pytest.raises(requests.ConnectionError):
        post(sandbox, [CAT], prompt="echo")
    assert sandbox.edits == []
    assert post(sandbox, [CAT], prompt="echo").status_code == 200
    assert (sandbox.posts, len(sandbox.edits)) == (4, 1)


@pytest.mark.slow
def test_thinking_takes_its_time_and_ends_with_the_sandbox() -> None:
    with Sandbox(thinking=0.4) as sandbox:
        start = time.monotonic()
        assert post(sandbox, [CAT], prompt="echo").status_code == 200
        assert time.monotonic() - start >= 0.4
    with contextlib.ExitStack() as running, socket.socket() as client:
        sandbox = running.enter_context(Sandbox(thinking=60))
        host, port = sandbox.origin.removeprefix("http://").split(":")
        client.connect((host, int(port)))
        request = requests.Request(
            "POST",
            f"{sandbox.base_url}/images/edits",
            headers=KEY,
            data={"prompt": "echo"},
            files={"image": png(CAT)},
        ).prepare()
        head = "".join(f"{name}: {value}\r\n" for name, value in request.headers.items())
        assert isinstance(request.body, bytes)
        client.sendall(f"POST /v1/images/edits HTTP/1.1\r\n{head}\r\n".encode() + request.body)
        while not sandbox.edits:
            time.sleep(0.01)
        start = time.monotonic()
        running.close()
        client.settimeout(10)
        assert client.recv(100) == b""
        assert time.monotonic() - start < 5


def test_clients_that_hang_up_leave_no_trace(
    sandbox: Sandbox, capfd: pytest.CaptureFixture[str]
) -> None:
    host, port = sandbox.origin.removeprefix("http://").split(":")
    head = b"POST /v1/images/edits HTTP/1.1\r\nContent-Length: 1000000\r\n"
    for sent in (b"", b"GARBAGE\r\n\r\n", head, head + b"\r\n--x"):
        with socket.create_connection((host, int(port))) as client:
            client.sendall(sent)
    assert post(sandbox, [CAT], prompt="echo").status_code == 200
    assert capfd.readouterr() == ("", "")
    assert sandbox.posts == 1


# --- the effect of edits on photographs -------------------------------------------------------


@pytest.mark.parametrize("prompt", ["echo", " Echo\n"])
@pytest.mark.slow
def test_echo_returns_the_very_bytes(sandbox: Sandbox, prompt: str) -> None:
    for kind in ("PNG", "JPEG", "WEBP"):
        out = io.BytesIO()
        ASTRONAUT.save(out, kind)
        response = post(sandbox, [out.getvalue(), CAT], prompt=prompt, size="16:9")
        assert fetch(sandbox, response) == out.getvalue()


@pytest.mark.slow
def test_it_misbehaves_if_asked_to() -> None:
    with Sandbox(misbehaviour=PRESETS["smeared"]) as smearing:
        first, second = (
            fetch(smearing, post(smearing, [COFFEE], prompt="echo", resolution="1k"))
            for _time in range(2)
        )
        # It does the same each time.
        assert first == second
        smeared = Image.open(io.BytesIO(first))
        assert (smeared.format, smeared.size) == ("JPEG", (1008, 672))
        away = np.asarray(smeared, float) - np.asarray(COFFEE.resize(smeared.size), float)
        assert np.abs(away).mean() > 5
        # A line in the prompt chooses another misbehaviour.
        prompt = "echo\nMisbehave: other size"
        square = Image.open(io.BytesIO(fetch(smearing, post(smearing, [COFFEE], prompt=prompt))))
        assert (square.format, square.size) == ("PNG", (1254, 1254))


def test_black_and_white_has_no_chroma(sandbox: Sandbox) -> None:
    values = lab(edited(sandbox, "Make it black and white", [COFFEE]))
    assert np.abs(values[..., 1:]).max() < 0.5
    assert values[..., 0].std() > 20


@pytest.mark.slow
def test_vintage_film_lifts_blacks_and_yellows_whites(sandbox: Sandbox) -> None:
    result = edited(sandbox, "like vintage film", [ASTRONAUT])
    before, after = lab(at(ASTRONAUT, result.size)), lab(result)
    assert np.percentile(after[..., 0], 2) > np.percentile(before[..., 0], 2) + 2
    assert np.percentile(after[..., 0], 99.5) < np.percentile(before[..., 0], 99.5)
    lights = before[..., 0] > 80
    assert after[lights][:, 2].mean() > before[lights][:, 2].mean() + 8


def test_a_sketch_is_dark_lines_on_light_paper(sandbox: Sandbox) -> None:
    values = lab(edited(sandbox, "a pencil sketch", [CAT]))
    assert np.abs(values[..., 1:]).mean() < 4
    assert np.percentile(values[..., 0], 90) > 85
    assert np.percentile(values[..., 0], 2) < 45
    assert values[..., 0].mean() > lab(CAT)[..., 0].mean()


@pytest.mark.parametrize(
    ("prompt", "sign"),
    [("make it warmer", 1), ("a colder look", -1)],
)
@pytest.mark.slow
def test_warmer_and_colder_turn_the_white_balance(sandbox: Sandbox, prompt: str, sign: int) -> None:
    result = edited(sandbox, prompt, [ASTRONAUT])
    change = (lab(result) - lab(at(ASTRONAUT, result.size))).mean((0, 1))
    assert change[2] * sign > 4
    assert abs(change[0]) < 2


@pytest.mark.slow
def test_blurring_the_background_keeps_the_subject(sandbox: Sandbox) -> None:
    result = edited(sandbox, "Blur the background", [ASTRONAUT])
    before, after = lab(at(ASTRONAUT, result.size)), lab(result)
    flag, face = np.s_[20:300, 10:130], np.s_[100:330, 370:560]
    assert sharpness(after[flag]) < 0.5 * sharpness(before[flag])
    assert sharpness(after[face]) > 0.6 * sharpness(before[face])


def masked(box: tuple[int, int, int, int], size: tuple[int, int], by_alpha: bool) -> Image.Image:
    """Return a mask with an ellipse to edit.

    The ellipse is transparent white on opaque black, as the plug-in sends it, or, without
    `by_alpha`, white on black.
    """
    mask = Image.new("RGBA", size, (0, 0, 0, 255))
    ImageDraw.Draw(mask).ellipse(box, fill=(255, 255, 255, 0))
    return mask if by_alpha else mask.convert("L")


@pytest.mark.parametrize("by_alpha", [True, False])
@pytest.mark.slow
def test_with_a_mask_the_background_is_what_the_mask_says(sandbox: Sandbox, by_alpha: bool) -> None:
    mask = masked((100, 40, 300, 200), CAT.size, by_alpha)
    files = [("image", CAT), ("mask", mask)]
    result = edited(sandbox, "blur the background", files, size="3:2")
    before, after = lab(at(CAT, result.size)), lab(result)
    eyes, muzzle = np.s_[180:420, 330:580], np.s_[530:640, 450:700]
    assert sharpness(after[eyes]) < 0.5 * sharpness(before[eyes])
    assert sharpness(after[muzzle]) > 0.8 * sharpness(before[muzzle])


@pytest.mark.slow
def test_removing_fills_from_the_surroundings(sandbox: Sandbox) -> None:
    clean = at(COFFEE, (1008, 672))
    spoiled = clean.copy()
    box = (700, 100, 790, 190)
    ImageDraw.Draw(spoiled).ellipse(box, fill=(0, 200, 255))
    mask = masked((692, 92, 798, 198), clean.size, by_alpha=True)
    result = edited(sandbox, "Remove the disc", [spoiled, ("mask", mask)], size="3:2")
    inside = np.asarray(masked(box, clean.size, by_alpha=False)) > 0
    truth, before, after = (lab(picture)[inside] for picture in (clean, spoiled, result))
    distance = np.linalg.norm(after.mean(0) - truth.mean(0))
    assert distance < 0.1 * np.linalg.norm(before.mean(0) - truth.mean(0))
    # The filled part has the texture of wood and is not a blur.
    assert after[:, 0].std() > 0.4 * truth[:, 0].std()


@pytest.mark.slow
def test_removing_without_a_mask_cleans_dust(sandbox: Sandbox) -> None:
    clean = at(ASTRONAUT, (1024, 1024))
    dusty = clean.copy()
    specks = [(640, 60), (330, 250), (620, 330), (680, 180)]
    for x, y in specks:
        ImageDraw.Draw(dusty).ellipse((x, y, x + 3, y + 3), fill="black")
    result = np.asarray(edited(sandbox, "remove the dust", [dusty]), np.float32)
    for x, y in specks:
        spot = np.s_[y + 1 : y + 3, x + 1 : x + 3]
        assert np.abs(result[spot] - np.asarray(clean, np.float32)[spot]).mean() < 20


def test_blending_takes_over_the_references_palette(sandbox: Sandbox) -> None:
    files = [("image[]", CAT), ("image[]", Image.fromarray(skimage.data.rocket()))]
    result = lab(edited(sandbox, "Blend the style of these", files)).mean((0, 1))
    cat, rocket = lab(CAT).mean((0, 1)), lab(files[1][1]).mean((0, 1))
    before, after = (np.linalg.norm((values - rocket)[1:]) for values in (cat, result))
    assert after < 0.35 * before


@pytest.mark.parametrize(
    ("english", "chinese"),
    [
        ("make it black and white", "改成黑白照片"),
        ("like vintage film", "把图片改成复古胶片风格,保留主体"),
        ("a pencil sketch", "变成素描"),
        ("warmer", "色调更暖一些"),
        ("colder", "冷色调"),
        ("blur the background", "背景虚化"),
        ("remove the eye", "去除眼睛"),
        ("erase the eye", "移除眼睛"),
        ("blend the styles of both", "融合两张参考图的风格,生成电商主图"),
    ],
)
@pytest.mark.slow
def test_chinese_words_ask_for_the_same_as_english_ones(english: str, chinese: str) -> None:
    mask = masked((120, 60, 220, 160), CAT.size, by_alpha=True)
    size = (300, 200)
    wanted, got, plain = (
        model.edit(prompt, [CAT, COFFEE], mask, size) for prompt in (english, chinese, "?")
    )
    assert got.tobytes() == wanted.tobytes()
    assert got.tobytes() != plain.tobytes()


def test_any_other_prompt_gets_a_look_that_shows(sandbox: Sandbox) -> None:
    result = edited(sandbox, "一只猫 with a hat", [CAT])
    assert 2 < np.abs(lab(result) - lab(at(CAT, result.size))).mean() < 15


@pytest.mark.slow
def test_several_wishes_are_all_met(sandbox: Sandbox) -> None:
    mixed = lab(edited(sandbox, "blur the background, black and white", [ASTRONAUT]))
    assert np.abs(mixed[..., 1:]).max() < 0.5
    sharp = lab(edited(sandbox, "black and white", [ASTRONAUT]))
    flag = np.s_[20:300, 10:130]
    assert sharpness(mixed[flag]) < 0.6 * sharpness(sharp[flag])


@pytest.mark.parametrize("prompt", ["sketch", "remove this", "x"])
@pytest.mark.slow
def test_the_whole_picture_is_drawn_anew_also_outside_the_mask(
    sandbox: Sandbox, prompt: str
) -> None:
    source = at(COFFEE, (1008, 672))
    mask = masked((400, 250, 600, 450), source.size, by_alpha=True)
    result = edited(sandbox, prompt, [source, ("mask", mask)], size="3:2")
    change = np.abs(np.asarray(result, np.int16) - np.asarray(source, np.int16)).max(-1)
    outside = np.ones(change.shape, bool)
    outside[220:480, 370:630] = False
    assert (change[outside] > 0).mean() > 0.5
    assert change[outside].mean() < 6
    for corner in (change[:60, :60], change[-60:, -60:]):
        assert (corner > 0).mean() > 0.3
    assert change[300:400, 450:550].mean() > change[outside].mean()


@pytest.mark.slow
def test_an_edit_gives_the_same_picture_every_time(sandbox: Sandbox) -> None:
    prompt = "blur the background"
    first, second = (edited(sandbox, prompt, [CAT], size="21:9").tobytes() for _ in range(2))
    assert first == second


@pytest.mark.slow
def test_pictures_of_all_kinds_are_taken(sandbox: Sandbox) -> None:
    grey, palette = CAT.convert("L"), CAT.convert("P")
    clear = CAT.convert("RGBA")
    clear.putalpha(0)
    for picture in (grey, palette, Image.new("RGB", (1, 1), "red"), Image.new("1", (3, 400))):
        assert edited(sandbox, "vintage", [picture]).size in {
            sizes["1k"] for sizes in RATIOS.values()
        }
    assert lab(edited(sandbox, "warmer", [clear]))[..., 0].min() > 90
    for shade in ((255, 255, 255, 0), (0, 0, 0, 255)):
        mask = Image.new("RGBA", CAT.size, shade)
        assert edited(sandbox, "remove this", [CAT, ("mask", mask)]).size == (1008, 672)
