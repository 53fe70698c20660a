"""An OpenAI-compatible endpoint on the loopback interface that does what a test tells it to."""

import json
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Script:
    """What the server does; `seen` has every request.

    `answer(text, count)` gives, for a question and how often it came before, a text to reply, a whole body (a dict,
    a list or bytes), or one of `status(...)`, `KILL`, `HANG`, `CUT`, `NOT_JSON`. `refuse(body)` may give an error body
    for a request, which is sent with status 400 instead.
    """

    KILL, HANG, CUT, NOT_JSON = object(), object(), object(), object()

    def __init__(self, answer, refuse):
        self.refuse = refuse
        self.answer, self.seen, self.headers, self.counts, self.lock = answer, [], [], {}, threading.Lock()

    @staticmethod
    def status(code, body=None, **headers):
        """An error; without a body, one with a message that holds the key."""
        return code, headers, body or {"error": {"message": f"scripted {code} with the key sk-secret"}}


@contextmanager
def serving(answer, refuse=lambda body: None):
    """The script of a running server, whose address is `script.url`."""
    script = Script(answer, refuse)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            text = body["messages"][-1]["content"]
            with script.lock:
                count = script.counts[text] = script.counts.get(text, -1) + 1
                script.seen.append((time.monotonic(), self.path, body))
                script.headers.append(dict(self.headers))
            refused = script.refuse(body)
            self.act(Script.status(400, refused) if refused else script.answer(text, count))

        def act(self, what):
            if what is Script.HANG:
                time.sleep(1.2)
                what = Script.KILL
            if what is Script.KILL:
                self.close_connection = True
                self.connection.close()
                return None
            if isinstance(what, tuple):
                code, headers, body = what
                return self.send(code, body, headers)
            if isinstance(what, bytes):
                return self.send(200, None, {}, what)
            if isinstance(what, dict | list):
                return self.send(200, what, {})
            if what is Script.NOT_JSON:
                return self.send(200, None, {}, b"<html>busy</html>")
            reply = {
                "choices": [{"message": {"role": "assistant", "content": what}}],
                "usage": {"prompt_tokens": 100, "completion_tokens": 10},
            }
            return self.send(200, reply, {}, cut=what is Script.CUT)

        def send(self, code, value, headers, raw=None, cut=False):
            data = raw or json.dumps(value, default=str).encode()
            self.send_response(code)
            self.send_header("Content-Length", str(len(data)))
            for name, header in headers.items():
                self.send_header(name.replace("_", "-"), header)
            self.end_headers()
            self.wfile.write(data[: len(data) // 2] if cut else data)
            if cut:
                self.close_connection = True

        def log_message(self, *words):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.handle_error = lambda *words: None  # a killed connection
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    script.url = f"http://127.0.0.1:{server.server_port}/v1"
    try:
        yield script
    finally:
        server.shutdown()
        server.server_close()
