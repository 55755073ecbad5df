"""A headless Chromium over its debugging pipe: one process for all pages.

The book is served from its folder on the loopback address. Nothing outside it is reachable: every
page is shown as a reader without network sees it.
"""

from __future__ import annotations

import base64
import contextlib
import http.server
import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from reproduce.pdf import chromium

# The debugging pipe is read from descriptor 3 and written to descriptor 4.
LAUNCH = """
import fcntl, os, sys
ends = [fcntl.fcntl(int(fd), fcntl.F_DUPFD, 10) for fd in sys.argv[1:3]]
for fd, end in zip((3, 4), ends):
    os.dup2(end, fd)
    os.close(end)
os.execv(sys.argv[3], sys.argv[3:])
"""


class BrowserError(Exception):
    """The browser died, refused a command or did not answer in time."""


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


class Browser:
    """One tab of a headless Chromium on the files of ``folder``.

    Args:
        folder: what ``/`` is.
        timeout: seconds that one command may take.
    """

    def __init__(self, folder: Path, *, timeout: float = 60):
        path = chromium()
        if path is None:
            raise BrowserError("no Chromium found")
        self.timeout = timeout
        self._buffer, self._count, self._events = b"", 0, []
        self.server = http.server.ThreadingHTTPServer(
            ("127.0.0.1", 0), lambda *a: _Quiet(*a, directory=str(folder))
        )
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.root = f"http://127.0.0.1:{self.server.server_port}/"
        self.profile = tempfile.mkdtemp(prefix="chromium-")
        theirs_in, self._out = os.pipe()
        self._in, theirs_out = os.pipe()
        command = [
            path, "--headless=new", "--remote-debugging-pipe", f"--user-data-dir={self.profile}",
            "--no-first-run", "--no-default-browser-check", "--disable-gpu", "--hide-scrollbars",
            "--disable-dev-shm-usage", "--disable-extensions", "--disable-background-networking",
            "--disable-component-update", "--force-color-profile=srgb",
            "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
        ]
        if hasattr(os, "geteuid") and os.geteuid() == 0:
            command.append("--no-sandbox")  # Chromium refuses to run as root with it
        self.process = subprocess.Popen(
            [sys.executable, "-c", LAUNCH, str(theirs_in), str(theirs_out), *command,
             "about:blank"],
            pass_fds=(theirs_in, theirs_out), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )
        os.close(theirs_in)
        os.close(theirs_out)
        self._session = None
        try:
            self._attach()
        except BaseException:
            self.close()
            raise

    def _attach(self) -> None:
        deadline = time.monotonic() + self.timeout
        while True:
            pages = [t for t in self.send("Target.getTargets")["targetInfos"]
                     if t["type"] == "page"]
            if pages or time.monotonic() > deadline:
                break
            time.sleep(0.05)
        attached = self.send("Target.attachToTarget", targetId=pages[0]["targetId"], flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.send(f"{domain}.enable")
        self.send("Emulation.setFocusEmulationEnabled", enabled=True)

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, *exc) -> None:
        self.close()

    def close(self) -> None:
        for handle in (self._out, self._in):
            with contextlib.suppress(OSError):
                os.close(handle)
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.server.shutdown()
        self.server.server_close()
        shutil.rmtree(self.profile, ignore_errors=True)

    # --- the protocol ---

    def send(self, method: str, **params) -> dict:
        """One command; its result.

        Raises:
            BrowserError: refused, or no answer in time.
        """
        self._count += 1
        number = self._count
        message = {"id": number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        deadline = time.monotonic() + self.timeout
        while True:
            answer = self._read(deadline, method)
            if answer.get("id") == number:
                if "error" in answer:
                    raise BrowserError(f"{method}: {answer['error'].get('message')}")
                return answer["result"]
            self._note(answer)

    def _read(self, deadline: float, what: str) -> dict:
        while b"\0" not in self._buffer:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self._in], [], [], left)[0]:
                raise BrowserError(f"{what}: no answer in {self.timeout} s")
            chunk = os.read(self._in, 1 << 16)
            if not chunk:
                raise BrowserError(f"{what}: the browser has ended")
            self._buffer += chunk
        message, _, self._buffer = self._buffer.partition(b"\0")
        return json.loads(message)

    def _note(self, message: dict) -> None:
        if "method" in message:
            self._events.append(message)

    # --- pages ---

    def view(self, width: int = 1280, height: int = 800, *, dark: bool = False,
             reduced: bool = False, media: str = "") -> None:
        """Size of the window, the reader's color scheme, motion and medium."""
        self.send("Emulation.setDeviceMetricsOverride", width=width, height=height,
                  deviceScaleFactor=1, mobile=width < 600)
        self.send("Emulation.setEmulatedMedia", media=media, features=[
            {"name": "prefers-color-scheme", "value": "dark" if dark else "light"},
            {"name": "prefers-reduced-motion", "value": "reduce" if reduced else "no-preference"},
        ])

    def open(self, path: str, *, javascript: bool = True, settle: float = 0.0) -> list[str]:
        """Load a page of the folder; the errors of its console, without blocked networks."""
        self.send("Emulation.setScriptExecutionDisabled", value=not javascript)
        self._events.clear()
        result = self.send("Page.navigate", url=self.root + path)
        if result.get("errorText"):
            raise BrowserError(f"{path}: {result['errorText']}")
        deadline = time.monotonic() + self.timeout
        while not any(e["method"] == "Page.loadEventFired" for e in self._events):
            self._note(self._read(deadline, path))
        if javascript:
            self.run("new Promise(done => requestAnimationFrame(() => setTimeout(done, 0)))")
        if settle:
            time.sleep(settle)
            self.send("Runtime.evaluate", expression="0")
        return self.errors()

    def errors(self) -> list[str]:
        """Errors and warnings of the console since the page was opened."""
        found = []
        for event in self._events:
            params = event["params"]
            if event["method"] == "Runtime.exceptionThrown":
                details = params["exceptionDetails"]
                found.append(details.get("exception", {}).get("description", details["text"]))
            elif event["method"] == "Runtime.consoleAPICalled" and params["type"] in (
                "error", "assert"
            ):
                found.append(" ".join(str(a.get("value", a.get("description")))
                                      for a in params["args"]))
            elif event["method"] == "Log.entryAdded":
                entry = params["entry"]
                outside = entry.get("url", "").startswith("http") and not entry["url"].startswith(
                    self.root
                )
                if entry["level"] == "error" and not outside:
                    found.append(f"{entry['text']} {entry.get('url', '')}")
        return found

    def requests(self) -> list[str]:
        """Addresses that the page has asked for since it was opened, without its own data."""
        urls = [e["params"]["request"]["url"] for e in self._events
                if e["method"] == "Network.requestWillBeSent"]
        return [u for u in urls if not u.startswith("data:")]

    def run(self, script: str):
        """Value of a JavaScript expression (a promise is awaited)."""
        result = self.send("Runtime.evaluate", expression=script, awaitPromise=True,
                           returnByValue=True, userGesture=True)
        if "exceptionDetails" in result:
            details = result["exceptionDetails"]
            raise BrowserError(details.get("exception", {}).get("description", details["text"]))
        return result["result"].get("value")

    def picture(self, file: Path, *, full: bool = False) -> Path:
        """A screenshot of the window, or of the whole page."""
        if full:
            width, height = self.run(
                "[innerWidth, Math.min(16000, document.documentElement.scrollHeight)]"
            )
            self.send("Emulation.setDeviceMetricsOverride", width=width, height=height,
                      deviceScaleFactor=1, mobile=width < 600)
        data = self.send("Page.captureScreenshot", format="png")["data"]
        file.write_bytes(base64.b64decode(data))
        return file
