"""A server through which tests call functions of another process, over a Unix socket.

Each call is a line of JSON, and so is its answer:

{"call": "layers", "args": {…}}  →  {"value": …}  or  {"error": "the traceback"}
"""

import contextlib
import json
import os
import socket
import traceback


def serve(path, functions):
    """Answer the calls of one client after the other, until one sends {"call": null}."""
    with socket.socket(socket.AF_UNIX) as listener:
        # The socket gets its final name when it accepts connections: clients wait for this name.
        listener.bind(path + ".new")
        listener.listen()
        os.rename(path + ".new", path)
        while True:
            connection, _ = listener.accept()
            # An interrupted client may disconnect in the middle of an answer.
            with contextlib.suppress(ConnectionError), connection:
                if not _answer(connection, functions):
                    return


def _answer(connection, functions):
    with connection.makefile("r", encoding="utf-8") as lines:
        for line in lines:
            request = json.loads(line)
            if request["call"] is None:
                return False
            try:
                answer = {"value": functions[request["call"]](**request["args"])}
            except Exception:
                answer = {"error": traceback.format_exc()}
            connection.sendall(json.dumps(answer).encode("utf-8") + b"\n")
    return True
