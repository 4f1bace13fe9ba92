"""A real HTTP server on a free port, whose answers a test scripts and whose requests it reads."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit


@dataclass(frozen=True)
class Asked:
    """One request as the server got it."""

    method: str
    path: str
    query: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True)
class Answer:
    """`wait`: answer only when this is set, or when the server stops."""

    status: int = 200
    body: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    wait: threading.Event | None = None


Answering = Callable[[Asked], Answer]


class Web:
    """Answers by `answering`, which may be replaced at any time; `asked` are the requests, oldest first."""

    def __init__(self, answering: Answering = lambda _: Answer()) -> None:
        self.answering = answering
        self.asked: list[Asked] = []
        self._events: list[threading.Event] = []
        web = self

        class Handler(BaseHTTPRequestHandler):
            def _handle(self) -> None:
                length = int(self.headers.get("Content-Length") or 0)
                address = urlsplit(self.path)
                query = {name: values[0] for name, values in parse_qs(address.query).items()}
                asked = Asked(self.command, address.path, query, self.rfile.read(length))
                web.asked.append(asked)
                answer = web.answering(asked)
                if answer.wait is not None:
                    web._events.append(answer.wait)
                    answer.wait.wait(30)
                try:
                    self.send_response(answer.status)
                    for name, value in answer.headers.items():
                        self.send_header(name, value)
                    data = answer.body.encode()
                    self.send_header("Content-Length", str(len(data)))
                    self.end_headers()
                    self.wfile.write(data)
                except ConnectionError:
                    pass  # whoever asked has stopped waiting

            do_GET = do_POST = do_DELETE = _handle  # noqa: N815

            def log_message(self, format: str, *args: Any) -> None:
                return

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        for event in self._events:
            event.set()
        self._server.shutdown()
        self._server.server_close()


def prometheus(values: dict[str, list[float]]) -> Answering:
    """Prometheus's answers: an instant query yields the last of a query's values, a range query all, 20 s apart."""

    def answer(asked: Asked) -> Answer:
        found = values.get(asked.query["query"])
        if asked.path == "/api/v1/query":
            result = [] if not found else [{"metric": {"job": "gw"}, "value": [1.0, str(found[-1])]}]
        else:
            start = float(asked.query["start"])
            samples = [[start + 20 * i, str(value)] for i, value in enumerate(found or [])]
            result = [] if not found else [{"metric": {"__name__": "x", "job": "gw"}, "values": samples}]
        return Answer(body=json.dumps({"status": "success", "data": {"resultType": "vector", "result": result}}))

    return answer
