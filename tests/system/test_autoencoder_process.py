"""Training of the autoencoder in a process of its own."""

import json
import signal
import subprocess
import sys
import time

from convexinit_paper.data.sources.structural_alerts import load_structural_alerts
from convexinit_paper.store.runs import read_run


def test_a_killed_training_goes_on_when_asked_again(tmp_path):
    """A real process, killed after its first checkpoint."""
    code = (
        "import sys, json\n"
        "from convexinit_paper.data import corpus\n"
        "from convexinit_paper.data.sources.structural_alerts import load_structural_alerts\n"
        "corpus.load_multitask = lambda name, folder: load_structural_alerts()\n"
        "from convexinit_paper.experiments import run_experiment\n"
        "print(run_experiment(json.loads(sys.argv[1])))\n"
    )
    (tmp_path / "smiles").mkdir()
    smiles = load_structural_alerts().train.smiles[:200]
    (tmp_path / "smiles/a.smi").write_text("\n".join(smiles))
    config = {
        "name": "autoencoder", "task": "autoencoder", "seeds": [0], "force": False,
        "checkpoint_minutes": 10, "seeds_at_once": None,
        "data_dir": str(tmp_path), "results_dir": str(tmp_path / "results"),
        "model": {
            "name": "autoencoder",
            "dimensions": 6, "embedding": 5, "encoder": 7, "decoder": 8, "context": 4,
        },
        "corpus": {"recombined": 0.0, "spellings": 1, "vocabulary": 60},
        "autoencoder": {
            "steps": 160, "batch_size": 32, "learning_rate": 1e-3, "warmup": 2, "clip": 1.0,
            "noise": 0.05, "canonical_share": 0.5, "property_weight": 0.1, "precision": "float32",
            "device": "cpu", "checkpoint_every": 20, "evaluated": 5,
        },
    }  # fmt: skip
    command = [sys.executable, "-c", code, json.dumps(config)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not list((tmp_path / "results").glob("checkpoints/autoencoder/*/*.pt")):
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not list((tmp_path / "results/runs").glob("*/*/summary.json"))
    again = subprocess.run(command, capture_output=True, text=True, check=True)
    run = read_run(tmp_path / again.stdout.splitlines()[-1])
    assert run.summary["earlier_revisions"] == [run.summary["git_revision"]]
    losses = run.metrics[run.metrics["metric"] == "batch_loss"]["value"]
    assert not list((tmp_path / "results").glob("checkpoints/autoencoder/*"))
    assert len(losses) == 160
    assert (losses > 0).all()
