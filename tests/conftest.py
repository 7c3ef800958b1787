"""What several tests share."""

import importlib.util
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType

import pytest
import torch

from support.data import ROOT


@pytest.fixture(autouse=True)
def _own_numerics():
    """Results of short tests must not depend on the machine's cores, nor wait for them.

    Nor do they depend on tests before them that trained something: training lets tiny numbers count
    as zero in the whole process.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.set_flush_denormal(False)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def script() -> ModuleType:
    """The module scripts/download_data.py."""
    spec = importlib.util.spec_from_file_location(
        "download_data", ROOT / "scripts" / "download_data.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Handler(SimpleHTTPRequestHandler):
    """Serves a folder; files under `cut/` break off half-way, as a lost connection does."""

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        if not self.path.startswith("/cut/"):
            return super().do_GET()
        content = (Path(self.directory) / self.path.removeprefix("/cut/")).read_bytes()
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[: len(content) // 2])
        self.close_connection = True


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """The address of a local server, and the folder it serves."""
    folder = tmp_path_factory.mktemp("served")
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=folder)) as instance:
        thread = threading.Thread(target=instance.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{instance.server_port}", folder
        instance.shutdown()
        thread.join()
