"""Build the body of the POST request for an edit, in the format of either route."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass

import urllib3

from plugin import settings
from plugin.worker import upload
from plugin.worker.upload import Upload


@dataclass(frozen=True)
class Form:
    """The body of a request, with the path to send it to."""

    path: str
    """The path relative to the service's base URL, with the query."""
    content_type: str
    body: bytes


def pictures_bytes(route: str) -> int:
    """Return how many bytes of pictures fit into a request by `route`.

    Only the route `async` encodes them in base64, which makes them a third larger.
    """
    return upload.TOTAL_BYTES if route == settings.EDITS else upload.TOTAL_BYTES * 3 // 4


def build(
    route: str, prompt: str, model: str, size: str, resolution: str, uploaded: Upload
) -> Form:
    """Build the request body for `route`, one of settings.ROUTES.

    The route `edits` takes a multipart form, the route `async` JSON with pictures as data URLs.
    """
    fields = {"prompt": prompt, "model": model, "size": size, "resolution": resolution}
    if route == settings.EDITS:
        files = [(field, (name, data, "image/png")) for field, name, data in uploaded.files]
        body, content_type = urllib3.encode_multipart_formdata([*fields.items(), *files])
        return Form("/images/edits", content_type, body)
    masks = [_data_url(data) for field, _name, data in uploaded.files if field == "mask"]
    images = [_data_url(data) for field, _name, data in uploaded.files if field != "mask"]
    asked = {**fields, "n": 1, "output_format": "png", "image_urls": images}
    if masks:
        asked["mask_url"] = masks[0]
    body = json.dumps(asked, ensure_ascii=False).encode()
    return Form("/images/generations?async=true", "application/json", body)


def _data_url(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode('ascii')}"
