"""A server that answers as each test wants it to, over real HTTP on loopback."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Handler(BaseHTTPRequestHandler):
    """One request; `answer` does what it likes with the connection."""

    protocol_version = "HTTP/1.1"
    answer: Callable[["Handler"], None]

    def do_POST(self) -> None:
        self.body = self.rfile.read(int(self.headers["Content-Length"]))
        self.close_connection = True
        type(self).answer(self)

    def send(self, data: bytes, *, status: int = 200, promised_bytes: int | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(promised_bytes or len(data)))
        self.end_headers()
        self.wfile.write(data)

    def send_pieces(self, *pieces: bytes, is_cut: bool = False) -> None:
        """Chunked, as a stream is."""
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for piece in pieces:
            self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
        if not is_cut:
            self.wfile.write(b"0\r\n\r\n")

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""


@contextmanager
def serve(answer: Callable[[Handler], None]) -> Iterator[str]:
    """Its address."""
    kind = type("OneHandler", (Handler,), {"answer": staticmethod(answer)})
    with ThreadingHTTPServer(("127.0.0.1", 0), kind) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()
