"""An S3 service for tests: moto's, on a port of this machine, that can be stopped, started and made to fail."""

from __future__ import annotations

import io
import socket
import threading
from collections.abc import Callable, Iterable
from typing import Any

from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import BaseWSGIServer, make_server
from werkzeug.wsgi import get_input_stream

ACCESS_KEY, SECRET_KEY = "AKIATESTSOFDUALPRUNE", "do-not-write-me-anywhere/0123456789"
BUCKET = "bucket"

_SLOW_DOWN = b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"


class S3Server:
    """What it holds survives `stop`; requests are served one at a time, so that each is atomic.

    Each is heard to its end before: its sender may be stopped in the middle of it.
    """

    def __init__(self) -> None:
        self.app = DomainDispatcherApplication(create_backend_app)
        self.refuses: Callable[[str, str], bool] = lambda method, path: False
        """Whether a request, by its method and path, is answered with 503."""
        self.cuts: Callable[[str, str], bool] = lambda method, path: False
        """Whether the connection ends in the middle of an answer."""
        self._one = threading.Lock()
        # Bound and never listening, it keeps the port from being given to others while the service is away.
        self._reserved = socket.socket()
        self._reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._reserved.bind(("127.0.0.1", 0))
        self.port: int = self._reserved.getsockname()[1]
        self._server: BaseWSGIServer | None = None
        self._thread: threading.Thread | None = None
        self.start()

    @property
    def endpoint(self) -> str:
        """Its URL."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs to find it."""
        return {
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_CONFIG_FILE": "/dev/null",
            "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def start(self) -> None:
        """Serve, on the same port as before."""
        self._server = make_server("127.0.0.1", self.port, self._answer, threaded=True)
        self._server.log = lambda *_: None  # type: ignore[method-assign]
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Refuse connections."""
        assert self._server is not None
        assert self._thread is not None
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _answer(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        if self.refuses(environ["REQUEST_METHOD"], environ["PATH_INFO"]):
            start_response("503 Slow Down", [("Content-Type", "application/xml")])
            return [] if environ["REQUEST_METHOD"] == "HEAD" else [_SLOW_DOWN]
        body = get_input_stream(environ).read()
        environ |= {"wsgi.input": io.BytesIO(body), "wsgi.input_terminated": True}
        with self._one:
            answer = b"".join(self.app(environ, start_response))
        return [answer[: len(answer) // 2] if self.cuts(environ["REQUEST_METHOD"], environ["PATH_INFO"]) else answer]
