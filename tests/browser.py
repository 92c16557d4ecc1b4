"""A real browser, led by Chromium's own protocol over two pipes: nothing to install beside it."""

import base64
import itertools
import json
import os
import select
import shutil
import subprocess
import time
from pathlib import Path
from typing import final

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
KEYS = {"ArrowRight": 39, "ArrowLeft": 37, "ArrowDown": 40, "ArrowUp": 38, "Tab": 9, "Enter": 13, "Home": 36, "End": 35}


def installed() -> str | None:
    return next(filter(None, map(shutil.which, BROWSERS)), None)


@final
class Browser:
    """One tab. `with Browser(folder) as browser:`

    folder   of its profile and of what it downloads
    """

    def __init__(self, folder: Path, width: int = 1000, height: int = 800, phone: bool = False):
        self.downloads, self.numbers, self.buffer, self.events = folder / "downloads", itertools.count(1), b"", []
        self.session = None
        to_read, self.output = os.pipe()
        self.input, to_write = os.pipe()
        command = [installed(), "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder / 'profile'}",
                   "--remote-debugging-pipe", "about:blank"]
        self.process = subprocess.Popen(  # the protocol's pipes are 3 and 4
            ["bash", "-c", f'exec "$0" "$@" 3<&{to_read} 4>&{to_write}', *command], pass_fds=(to_read, to_write),
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )
        os.close(to_read)
        os.close(to_write)
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for room in ("Page", "Runtime", "Log"):
            self.call(f"{room}.enable")
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=phone)
        self.call("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(self.downloads))

    def __enter__(self) -> "Browser":
        return self

    def __exit__(self, *_) -> None:
        os.close(self.output)
        os.close(self.input)
        self.process.kill()
        self.process.wait()

    def call(self, method: str, **parameters) -> dict:
        number = next(self.numbers)
        message = {"id": number, "method": method, "params": parameters}
        if self.session and not method.startswith(("Target.", "Browser.")):
            message["sessionId"] = self.session
        os.write(self.output, json.dumps(message).encode() + b"\0")
        while True:
            found = self.read()
            if found.get("id") == number:
                assert "error" not in found, f"{method}: {found}"
                return found["result"]
            self.events.append(found)

    def read(self, timeout: float = 60) -> dict:
        while b"\0" not in self.buffer:
            ready, _, _ = select.select([self.input], [], [], timeout)
            block = os.read(self.input, 1 << 20) if ready else b""
            assert block, "the browser has ended, or says nothing"
            self.buffer += block
        line, _, self.buffer = self.buffer.partition(b"\0")
        return json.loads(line)

    def open(self, address: str) -> None:
        self.call("Page.navigate", url=address)
        self.wait("document.readyState === 'complete' && location.href !== 'about:blank'")

    def evaluate(self, expression: str):
        done = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in done, done
        return done["result"].get("value")

    def wait(self, expression: str, seconds: float = 30):
        """Until it is true; returns it."""
        until = time.monotonic() + seconds
        while not (found := self.evaluate(expression)):
            assert time.monotonic() < until, f"still not: {expression}"
            time.sleep(0.05)
        return found

    def press(self, key: str) -> None:
        text = {"Enter": "\r"}.get(key, key if len(key) == 1 else "")
        code = KEYS.get(key, ord(key[0].upper()))
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, windowsVirtualKeyCode=code,
                      **({"text": text} if text and kind == "keyDown" else {}))

    def drop(self, file: Path, selector: str) -> None:
        x, y = self.evaluate(f"(() => {{ const r = document.querySelector('{selector}').getBoundingClientRect();"
                             "return [r.x + r.width / 2, r.y + r.height / 2] })()")
        for kind in ("dragEnter", "dragOver", "drop"):
            self.call("Input.dispatchDragEvent", type=kind, x=x, y=y,
                      data={"items": [], "files": [str(file)], "dragOperationsMask": 1})

    def choose(self, file: Path, selector: str) -> None:
        found = self.call("Runtime.evaluate", expression=f"document.querySelector('{selector}')")["result"]["objectId"]
        self.call("DOM.setFileInputFiles", files=[str(file)], objectId=found)

    def downloaded(self, name: str, seconds: float = 30) -> Path:
        until = time.monotonic() + seconds
        while not (self.downloads / name).exists():
            assert time.monotonic() < until, f"{name} was not downloaded"
            time.sleep(0.05)
        return self.downloads / name

    def screenshot(self, path: Path) -> None:
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"]))

    def complaints(self) -> list[str]:
        """What the console has of errors, those of the content security policy among them."""
        self.evaluate("1")
        return [
            json.dumps(event["params"]) for event in self.events
            if event.get("method") == "Runtime.exceptionThrown"
            or event.get("method") == "Log.entryAdded" and event["params"]["entry"]["level"] == "error"
        ]
