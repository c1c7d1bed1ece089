"""A stand-in for the image-edit service on loopback: the contract in full, without an AI.

`server` speaks the service's HTTP, `model` makes the pictures by classical means.
"""

from plugin.worker.sandbox.server import Edit, Sandbox, Served, UploadedFile

__all__ = ["Edit", "Sandbox", "Served", "UploadedFile"]
