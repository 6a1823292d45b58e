"""A model hub on loopback."""

import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from huggingface_hub import constants

from shared.errors import WeightsError
from transmitter.relevance import files


class Hub(ThreadingHTTPServer):
    """A model hub that serves one file under any name, or takes questions for it and never answers."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), HubRequest)
        self.content: bytes | None = None
        self.missing: tuple[str, ...] = ()
        self.asked: list[str] = []
        self.closing = threading.Event()


class HubRequest(BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path.startswith("/api/"):
            self.send_error(404)
            return
        self.server.asked.append(f"{self.command} {self.path}")
        if self.path.endswith(self.server.missing):
            self.send_response(404)
            self.send_header("X-Error-Code", "EntryNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if self.server.content is None:
            self.server.closing.wait(20)
            return
        self.send_response(200)
        self.send_header("ETag", '"1234"')
        self.send_header("X-Repo-Commit", "0" * 40)
        self.send_header("Content-Length", str(len(self.server.content)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(self.server.content)

    def do_HEAD(self):
        self.do_GET()

    def log_message(self, *_arguments):
        pass


@contextmanager
def running_hub(monkeypatch, tmp_path):
    """The hub that loaders ask, beside an empty cache."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(files, "HUB_TIMEOUT_S", 0.2)
    with Hub() as server:
        address = f"http://127.0.0.1:{server.server_port}"
        monkeypatch.setattr(constants, "ENDPOINT", address)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}"
        )
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield server
        server.closing.set()
        server.shutdown()
        thread.join(5)


@pytest.fixture(name="hub")
def hub_fixture(monkeypatch, tmp_path):
    with running_hub(monkeypatch, tmp_path) as server:
        yield server


def refusal(load):
    """What a loader says, in one line and soon, where there is no file, the cache is empty and the hub silent."""
    start_s = time.monotonic()
    with pytest.raises(WeightsError) as caught:
        load()
    assert time.monotonic() - start_s < 10
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)
