"""What several tests share."""

import importlib.util
import os
from pathlib import Path
from types import ModuleType

import pytest
import torch

ROOT = Path(__file__).parents[1]


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


def real_data_dir() -> Path:
    """Folder of real data: CONVEXINIT_DATA, or ``shared/data`` beside the checkout."""
    return Path(os.environ.get("CONVEXINIT_DATA", ROOT.parent / "shared" / "data"))


needs_mnist = pytest.mark.skipif(
    not (real_data_dir() / "MNIST" / "raw").is_dir(),
    reason=f"MNIST is not in {real_data_dir()}; set CONVEXINIT_DATA to its folder",
)
