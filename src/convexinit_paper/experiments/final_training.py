"""Figures 3 and 11, second part: training with the options of the best cell of a grid."""

from __future__ import annotations

from dataclasses import dataclass

from convexinit_paper.experiments import training_dynamics
from convexinit_paper.request.options import Section, option


@dataclass(frozen=True)
class ChosenFrom(Section):
    """Where the options come from."""

    grid: str = option("file of conf/grid among whose cells they were chosen")


@dataclass(frozen=True)
class Settings(training_dynamics.Settings):
    """Sections of the configuration."""

    search: ChosenFrom


run = training_dynamics.run
