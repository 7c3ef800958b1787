"""What processes that read data import, and two of them at once."""

import subprocess
import sys

import numpy as np
import pytest

from support.images import plain_files, write_archive


@pytest.mark.parametrize(
    ("module", "heavy"),
    [
        ("registry", "torch torchvision sklearn pandas PIL rdkit hydra"),
        ("datasets", "torchvision sklearn pandas PIL rdkit"),
    ],
)
def test_heavy_packages_are_imported_only_when_needed(module, heavy):
    code = (
        f"import sys, convexinit_paper.data.{module}\n"
        f"print([name for name in {heavy.split()} if name in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"


def test_two_processes_at_once(tmp_path):
    source = write_archive(plain_files(60), tmp_path / "pets.tar.gz")
    code = (
        "import sys; from convexinit_paper.data.image_folder import load_image_folder as load\n"
        "print(int(load(sys.argv[1], None, None, sys.argv[2]).train_inputs.long().sum()))"
    )
    arguments = [sys.executable, "-W", "error", "-c", code, str(source), str(tmp_path / "cache")]
    both = [subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    sums = {process.communicate(timeout=120)[0] for process in both}
    assert [process.returncode for process in both] == [0, 0]
    (file,) = (tmp_path / "cache").iterdir()
    with np.load(file) as arrays:
        assert sums == {f"{arrays['train_inputs'].sum()}\n"}
