"""What a run is known by: the same request finds the same folder, also after options were added."""

from convexinit_paper.store.identity import identity, run_folder
from convexinit_paper.store.runs import read_runs
from support.data import ROOT
from support.runs import config_of


def test_places_and_logging_do_not_change_where_a_run_is_found(tmp_path):
    config = config_of(tmp_path)
    same = {**config, "data_dir": "/elsewhere", "force": True, "logger": {"name": "wandb"}}
    assert run_folder(same) == run_folder(config)
    for other in ({"seeds": [0]}, {"model": {"name": "icnn", "rho": 0.4}}, {"trainer": {}}):
        assert run_folder({**config, **other}) != run_folder(config)
    assert "results_dir" not in identity(config)


def test_a_number_may_be_written_in_two_ways(tmp_path):
    assert run_folder(config_of(tmp_path, decay=0)) == run_folder(config_of(tmp_path, decay=0.0))
    assert run_folder(config_of(tmp_path, decay=0)) != run_folder(config_of(tmp_path, decay=False))


def test_the_order_of_options_does_not_matter(tmp_path):
    config = config_of(tmp_path)
    assert run_folder(dict(reversed(config.items()))) == run_folder(config)


def test_a_recorded_run_is_known_by_its_options():
    """Else runs that users have stored would not be found any more."""
    recorded = read_runs(ROOT / "results/recorded")
    assert len(recorded) > 100
    for run in recorded:
        known = run_folder({**run.config, "results_dir": ""})
        assert known.parts[-2:] == run.folder.parts[-2:]
