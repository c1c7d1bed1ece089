"""A stand-in for the image-edit service on the loopback interface: the full API without an AI.

`server` implements the HTTP API, and `model` edits the pictures with classical image processing.
"""

from plugin.worker.sandbox.server import Edit, Sandbox, Served, UploadedFile

__all__ = ["Edit", "Sandbox", "Served", "UploadedFile"]
