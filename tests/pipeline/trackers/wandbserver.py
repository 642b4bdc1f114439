"""As much of W&B's service as wandb needs to mirror runs, on this machine. It can hang, reset, and answer errors."""

from __future__ import annotations

import json
import socket
import struct
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

KEY = "0123456789" * 4


class WandBServer:
    """Answers while it is entered, on a port of its own."""

    def __init__(self, how: str = "well") -> None:
        self.how = how
        """`well`, `hang`, `reset`, or the number of an error."""
        self.asked: list[str] = []
        """What was asked for."""
        self.runs: dict[str, list[dict[str, Any]]] = {}
        """Rows by run."""
        self.logged: list[tuple[Any, ...]] = []
        """Runs and what they logged: an artifact's name and its digest, by which it is known again."""
        self.used: list[tuple[Any, Any]] = []
        """Runs and the digests of what they used."""
        self.released = threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True

    def __enter__(self) -> WandBServer:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.released.set()
        self._server.shutdown()
        self._server.server_close()

    @property
    def environment(self) -> dict[str, str]:
        """By which wandb finds it, and is content with a key."""
        return {"WANDB_BASE_URL": f"http://127.0.0.1:{self._server.server_port}", "WANDB_API_KEY": KEY}

    def query(self, text: str, given: dict[str, Any]) -> dict[str, Any]:
        """The answer to one of wandb's questions."""
        name, given = given.get("name"), given.get("input", given)
        if "viewer" in text:
            return {"viewer": {"id": "u", "username": "u", "entity": "e", "flags": "{}", "teams": {"edges": []}}}
        if "RunResumeStatus" in text:
            bucket = _bucket(name, self.runs.get(name or ""))
            return {"model": {"id": "p", "name": "p", "entity": {"id": "e", "name": "e"}, "bucket": bucket}}
        if "upsertBucket" in text:
            self.runs.setdefault(name or "", [])
            project = {"id": "p", "name": "p", "entity": {"id": "e", "name": "e"}}
            bucket = {"id": name, "name": name, "displayName": given.get("displayName"), "project": project}
            return {"upsertBucket": {"bucket": bucket, "inserted": True}}
        if "createRunFiles" in text:
            place = f"{self.environment['WANDB_BASE_URL']}/upload"
            files = [{"name": file, "uploadUrl": place} for file in given.get("files") or ()]
            return {"createRunFiles": {"runID": given.get("run"), "uploadHeaders": [], "files": files}}
        if "createArtifact(" in text:
            self.logged.append((given.get("runName"), given.get("artifactCollectionName"), given.get("digest")))
            sequence = {"id": "s", "latestArtifact": None}
            artifact = {"id": given.get("digest"), "state": "COMMITTED", "artifactSequence": sequence}
            return {"createArtifact": {"artifact": artifact}}
        if "useArtifact(" in text:
            self.used.append((given.get("runName"), given.get("artifactID")))
            return {"useArtifact": {"artifact": {"id": given.get("artifactID"), "digest": "", "state": "COMMITTED"}}}
        return {}

    def stream(self, run: str, files: dict[str, Any]) -> None:
        """Take in what is sent of a run's files: its rows from a line on."""
        sent = files.get("wandb-history.jsonl")
        if sent is not None:
            rows = self.runs.setdefault(run, [])
            rows[sent["offset"] :] = [json.loads(line) for line in sent["content"]]


def _bucket(name: str | None, rows: list[dict[str, Any]] | None) -> dict[str, Any] | None:
    if rows is None:
        return None
    return {
        "id": name,
        "name": name,
        "summaryMetrics": "{}",
        "displayName": name,
        "logLineCount": 0,
        "historyLineCount": len(rows),
        "eventsLineCount": 0,
        "historyTail": json.dumps([json.dumps(row) for row in rows[-1:]]),
        "eventsTail": "[]",
        "config": "{}",
        "tags": [],
        "wandbConfig": json.dumps({"t": 1}),
    }


def _handler(server: WandBServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            """Answer as the server is told to."""
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            server.asked.append(f"{self.path} {body[:60]!r}")
            if server.how == "hang":
                server.released.wait(600.0)
            if server.how in ("hang", "reset"):
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.connection.close()
                return
            code = 200 if server.how == "well" else int(server.how)
            answer: dict[str, Any] = {} if code == 200 else {"errors": [{"message": "no such project"}]}
            if code == 200 and self.path == "/graphql":
                asked = json.loads(body)
                answer = {"data": server.query(asked["query"], asked.get("variables") or {})}
            elif code == 200 and self.path.endswith("/file_stream"):
                server.stream(self.path.split("/")[-2], json.loads(body).get("files") or {})
            data = json.dumps(answer).encode()
            self.send_response(code)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_PUT = do_POST

        def log_message(self, *_: Any) -> None:
            """Nothing on the terminal."""

    return Handler
