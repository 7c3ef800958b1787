"""What a run is known by: the options that decide its numbers."""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path
from typing import Any

# What does not change the numbers of a run, and so does not count when a stored run is looked up.
PLACES = ("data_dir", "results_dir", "logger", "force", "checkpoint_minutes", "seeds_at_once")

# Digests of data that users bring, which is not known by its name alone; see
# :mod:`convexinit_paper.data.contents`.
CONTENTS = ("dataset.content", "corpus.content")

Config = dict[str, Any]


def identity(config: Config) -> Config:
    """The part of a configuration that decides the numbers of a run."""
    return {key: value for key, value in config.items() if key not in PLACES}


def run_folder(config: Config) -> Path:
    """Folder in which the run of this configuration is stored, whether it exists or not."""
    options = plain(_without_places_of_data(identity(config)))
    digest = hashlib.sha256(json.dumps(options, sort_keys=True).encode()).hexdigest()[:10]
    name = f"{config['model']['name']}-{digest}"
    return Path(config["results_dir"]) / "runs" / config["name"] / name


def _without_places_of_data(options: Config) -> Config:
    """The options but the path of images that are known by their content."""
    dataset = options.get("dataset", {})
    if "content" not in dataset:
        return options
    return {**options, "dataset": {key: dataset[key] for key in dataset if key != "path"}}


def plain(value: Any) -> Any:
    """Numbers as floats, so that 0 and 0.0 are the same request; None for those not finite."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [plain(item) for item in value]
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value) if math.isfinite(value) else None
    return value
