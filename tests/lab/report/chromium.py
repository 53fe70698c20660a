"""A headless Chromium, driven over Chrome's DevTools protocol through two pipes: no driver, no port, no dependency."""

import json
import os
import select
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
LIMIT_SECONDS = 60


def executable():
    """The browser to test with, or None; IFT_CHROMIUM names another one."""
    return os.environ.get("IFT_CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)


SHOTS = Path(os.environ.get("IFT_SCREENSHOTS", Path(__file__).parents[3] / "screenshots"))
MARKS = [
    pytest.mark.browser,
    pytest.mark.skipif(
        executable() is None, reason="no Chromium found: apt-get install chromium, or set IFT_CHROMIUM"
    ),
]


class Chromium:
    """One page. `events` holds every message that was no answer, network requests among them."""

    def __init__(self, profile):
        to_browser, self._out = os.pipe()
        self._in, from_browser = os.pipe()
        flags = [
            "--headless=new", "--remote-debugging-pipe", f"--user-data-dir={profile}", "--no-first-run",
            "--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking", "--disable-sync",
            "--disable-component-update", "--disable-extensions", "--hide-scrollbars", "about:blank",
        ]  # fmt: skip
        flags.insert(0, "--no-sandbox")  # root and most containers forbid the sandbox; the page is our own
        self._log = Path(profile, "browser.log")
        # The browser reads from file descriptor 3 and writes to 4: a shell puts the pipes there.
        script = f'exec "$0" "$@" 3<&{to_browser} 4>&{from_browser} {to_browser}<&- {from_browser}>&-'
        self._process = subprocess.Popen(
            ["bash", "-c", script, executable(), *flags],
            pass_fds=(to_browser, from_browser), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=self._log.open("wb"), start_new_session=True,
        )  # fmt: skip
        os.close(to_browser)
        os.close(from_browser)
        self._buffer, self._count, self._session, self.events = b"", 0, None, []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method, **parameters):
        """One command of the protocol; returns its result."""
        self._count += 1
        message = {"id": self._count, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        began = time.monotonic()
        while (answer := self._next()).get("id") != self._count:
            assert time.monotonic() - began < LIMIT_SECONDS, (
                f"the browser sends events, and no answer to {method}"
            )
            self.events.append(answer)
        assert "error" not in answer, (method, answer)
        return answer["result"]

    def open(self, path):
        """Load a file and wait until it stands."""
        self.events.clear()
        self.call("Page.navigate", url=path.resolve().as_uri())
        began = time.monotonic()
        while not any(event.get("method") == "Page.loadEventFired" for event in self.events):
            assert time.monotonic() - began < LIMIT_SECONDS, "the page did not load"
            self.events.append(self._next())

    def run(self, expression):
        """The value of a JavaScript expression, as the debugger evaluates it."""
        found = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def key(self, name, code, text=""):
        """Press and release a key."""
        values = {"key": name, "code": name, "windowsVirtualKeyCode": code}
        self.call("Input.dispatchKeyEvent", type="keyDown", **values, **({"text": text} if text else {}))
        self.call("Input.dispatchKeyEvent", type="keyUp", **values)

    def window(self, width, height, scheme="light", mobile=False):
        """Size in CSS pixels, and the colour scheme that the system prefers."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": mobile}
        self.call("Emulation.setDeviceMetricsOverride", **size)
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def close(self):
        """End the browser and its helpers: the process group that was started here, nothing else."""
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(timeout=LIMIT_SECONDS)
        os.close(self._in)
        os.close(self._out)

    def _next(self):
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._in], [], [], LIMIT_SECONDS)
            assert ready, "the browser does not answer"
            read = os.read(self._in, 1 << 20)
            assert read, "the browser ended: " + self._log.read_text(errors="replace")[-2000:]
            self._buffer += read
        message, _, self._buffer = self._buffer.partition(b"\0")
        return json.loads(message)
