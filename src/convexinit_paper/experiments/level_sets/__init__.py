"""Figure 4: walks between molecules along the level sets of predicted toxicity.

One network per seed is trained as for Table 1. Per task, walks start at molecules whose predicted
toxicity is low and lead towards molecules drawn at random; every point is decoded and judged.

Where the walks go: rays start at an interior point, by default the code of the molecule that is
predicted least toxic. Points of the segment from start to target that are above the level are
pulled towards it, and so stay in the convex hull of the codes of known molecules. Points below the
level are pushed outwards until they meet it, and would often leave the cube (-1, 1) that holds all
codes. So, unless ``level_sets.region=everywhere``, a ray that meets a face of the box of known
codes goes on along it.

A network that is not convex is the contrast: its rays may cross the level several times, what lies
between two points of a walk may be above it, and so may the mean code of molecules that are below.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import pandas as pd

from convexinit.dropout import seed_dropout_
from convexinit.molecules.codec import Codec
from convexinit.stacking import unstack_network
from convexinit_paper.data.contents import check_contents
from convexinit_paper.data.encoded import count_reasons, load_encoded, open_codec
from convexinit_paper.experiments import tox21
from convexinit_paper.experiments.level_sets.judging import judge
from convexinit_paper.experiments.level_sets.molecules import at_bottom, known_molecules, low_window
from convexinit_paper.experiments.level_sets.settings import LevelSetSettings
from convexinit_paper.experiments.level_sets.summary import as_arrays, summarise
from convexinit_paper.experiments.level_sets.walking import prediction, walk
from convexinit_paper.experiments.training_dynamics import final_metrics
from convexinit_paper.progress import with_progress
from convexinit_paper.request.options import require
from convexinit_paper.request.request import Request
from convexinit_paper.store.runs import COLUMNS, Outcome
from convexinit_paper.training.machine import device_name, prepare_process


@dataclass(frozen=True)
class Settings(tox21.Settings):
    """Sections of the configuration."""

    level_sets: LevelSetSettings


def run(settings: Settings, request: Request) -> Outcome:
    """Train, walk, decode and judge.

    In the table, ``split`` is the task; ``epoch`` and ``step`` count the training of the network
    that is walked. The metrics are those of :func:`summarise`. The arrays hold two tables, column
    by column: "trajectories.*" with one row per walk and "points.*" with one row per point.
    """
    prepare_process()
    seeds, options, trainer = request.seeds, settings.level_sets, settings.trainer
    codec = open_codec(settings.codec, request.data_dir)
    require(
        type(codec).decode is not Codec.decode,
        "codec.name",
        "one whose codes can be decoded: codec=autoencoder or codec=cddd",
        codec.name,
    )
    data = load_encoded(
        settings.dataset, codec, settings.codec.standardise, request.data_dir, request.cache
    )
    check_contents(request.config)
    tasks = choose_tasks(options.tasks, data.tasks)
    stack, history = tox21.train_networks(settings, data, request)
    final = final_metrics(history, seeds)
    library = known_molecules(data)

    rows: list[tuple[int, int, int, str, str, float]] = []
    trajectories, points = [], []
    when = (trainer.epochs, history.batch_losses.shape[1])
    seed_dropout_(stack, [])  # generators cannot be copied, and are of no more use
    networks = {
        seed: unstack_network(stack, index).cpu().double().eval()
        for index, (seed, diverged) in enumerate(zip(seeds, history.diverged_at, strict=True))
        if diverged is None
    }
    pairs = list(product(networks, tasks))
    for seed, task in with_progress(pairs, "walks", len(pairs), "pairs of seed and task"):
        f = prediction(networks[seed], data, data.tasks.index(task))
        values = f(library.codes)
        walks = walk(f, values, library, codec, options, seed, task)
        walked, judged = judge(f, walks, library, codec, options)
        _, low = low_window(values, options.low_toxicity)
        summary = {
            "at_bottom": float(at_bottom(values).double().mean()),
            **summarise(walked, judged, low),
        }
        rows += [(seed, *when, task, metric, value) for metric, value in summary.items()]
        final[seed] |= {f"{task}_{metric}": value for metric, value in summary.items()}
        trajectories.append(walked.assign(seed=seed, task=task))
        points.append(judged.assign(seed=seed, task=task))
    return Outcome(
        pd.DataFrame(rows, columns=COLUMNS),
        final,
        device_name(trainer.torch_device()),
        arrays={**as_arrays("trajectories", trajectories), **as_arrays("points", points)},
        notes={
            "dataset": data.title,
            "tasks": tasks,
            "codec": codec.digest,
            "data": data.notes,
            "molecules": len(library.smiles),
            "excluded": {name: count_reasons(part.excluded) for name, part in data.sets.items()},
        },
        earlier=history.earlier,
    )


def choose_tasks(names: list[str] | None, tasks: Sequence[str]) -> list[str]:
    """The tasks of those names; the first two without names.

    Raises:
        ConfigError: an unknown, repeated or missing name.
    """
    chosen = list(tasks[:2]) if names is None else names
    unknown = [name for name in chosen if name not in tasks]
    require(
        bool(chosen) and not unknown and len(set(chosen)) == len(chosen),
        "level_sets.tasks",
        f"null or distinct names among {', '.join(tasks)}",
        names,
    )
    return chosen
