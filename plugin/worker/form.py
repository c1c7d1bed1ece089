"""What a POST carries: one edit, put into the words of either route."""

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
    """A request's body, and where it goes."""

    path: str
    """Below the service's address, with its query."""
    content_type: str
    body: bytes


def pictures_bytes(route: str) -> int:
    """Return how many bytes of pictures there is room for: base64 makes them a third larger."""
    return upload.TOTAL_BYTES if route == settings.EDITS else upload.TOTAL_BYTES * 3 // 4


def build(
    route: str, prompt: str, model: str, size: str, resolution: str, uploaded: Upload
) -> Form:
    """Put an edit into the form that `route`, one of settings.ROUTES, wants."""
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
