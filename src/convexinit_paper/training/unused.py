"""Options that a model's initialisation or the experiment does not use."""

from __future__ import annotations

from functools import cache
from typing import Any, cast

from omegaconf import OmegaConf

from convexinit_paper.request.config import CONF
from convexinit_paper.training.models import INITIALISATIONS, OF_MOMENTS

# What convex networks use, whatever their initialisation.
_OF_CONVEX = ("positivity",)
# What the experiment signal_propagation says by widths of its own.
_OF_WIDTHS = ("num_hidden", "width", "widths")
# Tasks that an option of all runs has no effect in; one of a user's own may use any.
_WITHOUT_MINUTES = ("autoencoder", "level_sets", "signal_propagation", "your_network")
_OF_OTHER_TASKS = {
    "checkpoint_minutes": _WITHOUT_MINUTES,
    "seeds_at_once": (*_WITHOUT_MINUTES, "tox21"),
}


def without_effect(config: dict[str, Any]) -> list[str]:
    """What to say of options that have another value than their default, but no effect.

    Args:
        config: the configuration. A model with another initialisation than the known ones, or none,
            passes: its own settings say what is wrong.

    Example:
        >>> model = {"init": "he", "convex": True, "rho": 0.1}
        >>> without_effect({"task": "training_dynamics", "model": model})
        ['model.rho=0.1 has no effect where model.init=he, but with model.init=principled, \
bias_only, principled_lsuv']
    """
    defaults = _defaults("config.yaml")
    of_run = [
        f"{name}={config[name]} has no effect in this experiment"
        for name, tasks in _OF_OTHER_TASKS.items()
        if config["task"] in tasks and config.get(name, defaults[name]) != defaults[name]
    ]
    return of_run + _of_model(config["model"], config["task"])


def _of_model(model: dict[str, Any], task: str) -> list[str]:
    """The same of the options of a model.

    Args:
        model: the section.
        task: of the experiment.
    """
    init, convex = str(model.get("init")), model.get("convex")
    defaults = _defaults("network/fully_connected.yaml")  # that all model variants share
    if init not in INITIALISATIONS:
        return []
    used = (*INITIALISATIONS[init], *_OF_CONVEX) if convex else ()
    where = f"model.init={init}" if convex else "model.convex=false"
    of_others = {
        name: f"where {where}, but with {_users(name, bool(convex))}"
        for name in (*OF_MOMENTS, *_OF_CONVEX)
        if name not in used
    }
    if task == "signal_propagation":
        of_others |= dict.fromkeys(_OF_WIDTHS, "here, as signal.widths are those of all layers")
    return [
        f"model.{name}={model[name]} has no effect {reason}"
        for name, reason in of_others.items()
        if model.get(name) not in (None, defaults[name])
    ]


def _users(name: str, convex: bool) -> str:
    """With what an option has an effect.

    Args:
        name: of the option.
        convex: whether the network is.
    """
    initialisations = ", ".join(init for init, names in INITIALISATIONS.items() if name in names)
    choices = [] if convex else ["model.convex=true"]
    return " and ".join([*choices, f"model.init={initialisations}"] if initialisations else choices)


@cache
def _defaults(name: str) -> dict[str, Any]:
    """The options of one file below ``conf``, as they are written there."""
    return cast("dict[str, Any]", OmegaConf.to_container(OmegaConf.load(CONF / name)))
