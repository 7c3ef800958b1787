"""A server on this machine in the place of those that data are downloaded from."""

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

CLOSED_PORT = "http://127.0.0.1:9/"


@dataclass
class Served:
    """What a server answers to ``<url><name>``.

    Attributes:
        url: of the server, with a slash at the end.
        contents: by name; other names are not found.
        cut: names of which only half arrives, as when a connection is lost.
    """

    url: str = ""
    contents: dict[str, bytes] = field(default_factory=dict)
    cut: set[str] = field(default_factory=set)


class Handler(BaseHTTPRequestHandler):
    def __init__(self, *args: object, served: Served) -> None:
        self.served = served
        super().__init__(*args)

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        name = re.split("[/=]", self.path)[-1]
        content = self.served.contents.get(name)
        if content is None:
            return self.send_error(404)
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[: len(content) // 2] if name in self.served.cut else content)
        self.close_connection = True


@contextmanager
def serving() -> Iterator[Served]:
    """A server that runs until the block is left."""
    served = Served()
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, served=served)) as instance:
        served.url = f"http://127.0.0.1:{instance.server_port}/"
        thread = threading.Thread(target=instance.serve_forever, args=(0.01,))
        thread.start()
        yield served
        instance.shutdown()
        thread.join()
