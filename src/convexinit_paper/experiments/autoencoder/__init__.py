"""Train the translation autoencoder that gives molecules their codes."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pandas as pd

from convexinit.molecules.autoencoder import Sizes, to_arrays
from convexinit_paper.data.contents import check_contents
from convexinit_paper.data.corpus import CorpusSettings, load_corpus
from convexinit_paper.experiments.autoencoder.assessment import assess
from convexinit_paper.experiments.autoencoder.training import AutoencoderSettings, train
from convexinit_paper.request.options import require
from convexinit_paper.request.request import Request
from convexinit_paper.store.checkpoints import checkpoint_of
from convexinit_paper.store.runs import COLUMNS, Outcome, seed_summary
from convexinit_paper.training.machine import device_name, prepare_process


@dataclass(frozen=True)
class Settings:
    """Sections of the configuration."""

    model: Sizes
    corpus: CorpusSettings
    autoencoder: AutoencoderSettings


def run(settings: Settings, request: Request) -> Outcome:
    """Train one autoencoder (one seed), going on from its checkpoint if there is one."""
    prepare_process()
    require(len(request.seeds) == 1, "seeds", "one seed, for example [0]", request.seeds)
    [seed] = request.seeds
    options = settings.autoencoder
    corpus = load_corpus(settings.corpus, request.data_dir, seed, request.cache)
    check_contents(request.config)
    network, history = train(corpus, settings.model, options, seed, checkpoint_of(request.config))
    report = assess(network, corpus, seed)
    per_epoch = math.ceil(len(corpus.starts) / options.batch_size)
    rows = [
        (seed, (step - 1) // per_epoch + 1, step, split, name, value)
        for step, split, name, value in history.rows()
    ]
    rows += [
        (seed, 0, options.steps, split, name, value)
        for split, metrics in report.items()
        for name, value in metrics.items()
    ]
    return Outcome(
        metrics=pd.DataFrame(rows, columns=COLUMNS),
        seeds={
            seed: seed_summary(
                diverged=False,
                exact=report["held_out"]["exact"],
                valid=report["held_out"]["valid"],
                **{
                    f"{name.replace(' ', '_')}_valid": report[name]["valid"]
                    for name in report
                    if name.endswith("between")
                },
            )
        },
        device=device_name(options.torch_device()),
        arrays=to_arrays(network, corpus.vocabulary),
        notes={
            "training_seconds": round(sum(history.spent.values()), 1),
            "molecules": len(corpus.starts),
            "sources": corpus.sources,
        },
        earlier=history.earlier,
    )
