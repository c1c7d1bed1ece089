"""Lets a process inside answer the tests: one function call per line of JSON over a Unix socket.

{"call": "layers", "args": {…}}  →  {"value": …}  or  {"error": "the traceback"}
"""

import contextlib
import json
import os
import socket
import traceback


def serve(path, functions):
    """Answer one caller after the other, until one says goodbye with {"call": null}."""
    with socket.socket(socket.AF_UNIX) as listener:
        # Under its final name only when it listens: a caller waits for the name.
        listener.bind(path + ".new")
        listener.listen()
        os.rename(path + ".new", path)
        while True:
            connection, _ = listener.accept()
            # A caller that is interrupted may leave in the middle of an answer.
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
