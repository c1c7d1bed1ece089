"""The sandbox: a stand-in for the image-edit service that runs on this computer, without an AI.

`server` implements the whole HTTP API of the service, and `model` edits the pictures with classical
image processing.
"""

from plugin.worker.sandbox.server import Edit, Sandbox, Served, UploadedFile

__all__ = ["Edit", "Sandbox", "Served", "UploadedFile"]
