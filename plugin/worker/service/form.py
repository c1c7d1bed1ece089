"""Build the body of the POST request for an edit.

The route, `edits` or `async`, decides the path of the request and the format of the body.
"""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass

import urllib3

from plugin import settings
from plugin.limits import TOTAL_BYTES
from plugin.worker.service.upload import Upload


@dataclass(frozen=True)
class Form:
    """The body of a POST request, its content type, and the path to which it is sent."""

    path: str
    """The path to append to the service's base URL, including the query."""
    content_type: str
    body: bytes


def pictures_bytes(route: str) -> int:
    """Return how many bytes of PNGs fit into a request by `route`.

    The route `async` allows fewer bytes, because it encodes the PNGs in base64, which makes them a
    third larger.
    """
    return TOTAL_BYTES if route == settings.EDITS else TOTAL_BYTES * 3 // 4


def build(
    route: str, prompt: str, model: str, size: str, resolution: str, uploaded: Upload
) -> Form:
    """Build the request body for `route`, one of settings.ROUTES.

    For the route `edits`, the body is a multipart form. For the route `async`, the body is JSON
    that contains the pictures as `data:` URLs.
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
