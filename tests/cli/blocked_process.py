"""A fresh process that may not connect to anything: runs command lines of `ift`, tells what each of them tried.

Usage: python blocked_process.py '[["train", "--model_name_or_path", ...], ...]'; one JSON object a line.
"""

import contextlib
import io
import json
import socket
import sys
import time

tried = []


def refused(what):
    def refuse(*given, **more):
        inside = given and isinstance(given[0], socket.socket)
        if inside and given[0].family == getattr(socket, "AF_UNIX", None):
            return real_connect(*given)
        tried.append(f"{what} {given[1:] if inside else given}")
        raise OSError(101, "Network is unreachable")

    return refuse


real_connect = socket.socket.connect
socket.socket.connect = refused("connect")
socket.socket.connect_ex = refused("connect_ex")
socket.socket.sendto = refused("sendto")
socket.create_connection = refused("create_connection")
socket.getaddrinfo = refused("getaddrinfo")

for words in json.loads(sys.argv[1]):
    from ift.cli.main import main

    sys.argv[1:] = words
    tried.clear()
    said, began, code = io.StringIO(), time.monotonic(), 0
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try:
            main()
        except SystemExit as end:
            code = end.code
    result = {
        "code": code,
        "tried": list(tried),
        "said": said.getvalue(),
        "seconds": time.monotonic() - began,
    }
    print(json.dumps(result), flush=True)
