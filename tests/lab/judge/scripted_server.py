"""An OpenAI-compatible endpoint on the loopback interface that does what a test tells it to."""

import json
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Script:
    """What the server does; `seen` has every request.

    `answer(text, count)` gives, for a question and how often it came before, a text to reply, or one of `status(...)`,
    `KILL`, `HANG`, `CUT`, `NOT_JSON`.
    """

    KILL, HANG, CUT, NOT_JSON = object(), object(), object(), object()

    def __init__(self, answer):
        self.answer, self.seen, self.headers, self.counts, self.lock = answer, [], [], {}, threading.Lock()

    @staticmethod
    def status(code, **headers):
        return code, headers


@contextmanager
def serving(answer):
    """The script of a running server, whose address is `script.url`."""
    script = Script(answer)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            text = body["messages"][-1]["content"]
            with script.lock:
                count = script.counts[text] = script.counts.get(text, -1) + 1
                script.seen.append((time.monotonic(), self.path, body))
                script.headers.append(dict(self.headers))
            self.act(script.answer(text, count))

        def act(self, what):
            if what is Script.HANG:
                time.sleep(1.2)
                what = Script.KILL
            if what is Script.KILL:
                self.close_connection = True
                self.connection.close()
                return None
            if isinstance(what, tuple):
                code, headers = what
                return self.send(
                    code, {"error": {"message": f"scripted {code} with the key sk-secret"}}, headers
                )
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
