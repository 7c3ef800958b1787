"""The scripts of examples/ run on any machine, and their pictures show something."""

import os
import re
import subprocess
import sys

import pytest
from PIL import Image

from support.data import ROOT

EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


@pytest.mark.slow
@pytest.mark.parametrize("script", EXAMPLES, ids=[script.stem for script in EXAMPLES])
def test_an_example_prints_what_it_reached_and_draws_it(script, tmp_path):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HOME": str(tmp_path)}
    environment.pop("DISPLAY", None)
    done = subprocess.run(
        [sys.executable, script, "~/new"], capture_output=True, text=True, check=True,
        env=environment,
    )  # fmt: skip
    for start in ("default start", "init_icnn_"):
        assert re.search(rf"^{start}: .*\d.* before training, .*\d.* after", done.stdout, re.M)
    picture = Image.open(tmp_path / "new" / f"{script.stem}.png").convert("RGB")
    assert len(picture.getcolors(picture.width * picture.height)) > 20


@pytest.mark.slow
@pytest.mark.parametrize("script", EXAMPLES, ids=[script.stem for script in EXAMPLES])
def test_an_example_says_what_it_takes_and_where_it_cannot_write(script, tmp_path):
    (tmp_path / "file").write_text("")
    shown, missing, taken = (
        subprocess.run(
            [sys.executable, script, *arguments],
            capture_output=True, text=True, check=False, cwd=tmp_path,
        )
        for arguments in (["--help"], [], ["file"])
    )  # fmt: skip
    assert shown.returncode == 0
    assert f"python examples/{script.name} FOLDER" in shown.stdout
    assert missing.returncode == 2
    assert "required: FOLDER" in missing.stderr
    assert taken.returncode == 1
    assert taken.stderr.startswith("error: ")
    assert "file" in taken.stderr.splitlines()[-1]
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
