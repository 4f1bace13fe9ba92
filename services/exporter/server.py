"""Serve `/metrics` for Prometheus."""

from __future__ import annotations

import sys
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from prometheus_client.exposition import CONTENT_TYPE_LATEST

from breaker import BreakerError
from configuration.running import RunningConfiguration
from ledger.errors import LedgerError
from services.exporter.exporter import Exporter
from tasks.running_services import reported


class MetricsServer:
    """The exporter behind HTTP, on a thread of its own. Port 0 takes a free one."""

    def __init__(self, exporter: Exporter, host: str, port: int) -> None:
        self.exporter = exporter
        self._server = ThreadingHTTPServer((host, port), _handler(exporter))
        self._server.daemon_threads = True
        self.port: int = self._server.server_address[1]

    def serve(self) -> None:
        """Answer scrapes until `stop` is called from another thread."""
        self.exporter.start()
        self._server.serve_forever(poll_interval=0.2)

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self.exporter.close()


def _handler(exporter: Exporter) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = 10.0
        # Head and body in one packet, or the second would wait for the first to be acknowledged.
        wbufsize = 1 << 16
        disable_nagle_algorithm = True

        def do_GET(self) -> None:
            if self.path.split("?", 1)[0] != "/metrics":
                self._answer(HTTPStatus.NOT_FOUND, "text/plain; charset=utf-8", b"The metrics are at /metrics.\n")
                return
            self._answer(HTTPStatus.OK, CONTENT_TYPE_LATEST, exporter.scrape())

        def log_message(self, format: str, *args: object) -> None:
            """A line for every scrape would say nothing."""

        def _answer(self, status: HTTPStatus, kind: str, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    return Handler


def main() -> int:
    """Serve the configured exporter until interrupted. Returns the exit status."""
    try:
        running = RunningConfiguration.load()
        where = running.settings.console
        server = MetricsServer(Exporter(running.settings), where.metrics_host, where.metrics_port)
    except (BreakerError, LedgerError) as error:
        sys.stderr.write(f"metrics: {error}\n")
        return 2
    except OSError as error:
        sys.stderr.write(
            f"metrics: port {where.metrics_port} of {where.metrics_host} can't be had ({error.strerror}); "
            "stop what listens there, or set console.metrics_port\n"
        )
        return 2
    sys.stderr.write(f"metrics: http://{where.metrics_host}:{server.port}/metrics\n")
    try:
        with reported("metrics", running):
            server.serve()
    except KeyboardInterrupt:
        return 0
    return 0
