"""From the configuration tree to checked settings, with messages that name the option."""

from __future__ import annotations

import dataclasses
import json
from contextlib import nullcontext
from pathlib import Path
from typing import Any, TypeVar, cast

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

CONF = Path(__file__).parents[3] / "conf"
Settings = TypeVar("Settings")
MOST_SEEDS = 10_000


class ConfigError(ValueError):
    """An option has a wrong name, type or value."""


def checked(settings: type[Settings], options: dict[str, Any], section: str) -> Settings:
    """Make a settings dataclass from one section of the configuration.

    Args:
        settings: dataclass whose annotations give the types and whose ``__post_init__`` checks
            the ranges.
        options: the section; beside the fields of the dataclass it may hold a ``name``.
        section: name of the section, for error messages.

    Raises:
        ConfigError: if an option is missing, has a wrong type, or is out of range.
    """
    names = [field.name for field in dataclasses.fields(settings)]  # type: ignore[arg-type]
    missing = [name for name in names if name not in options]
    if missing:
        raise ConfigError(f"the option {section}.{missing[0]} is missing")
    unknown = [name for name in options if name not in (*names, "name")]
    if unknown:
        raise ConfigError(f"there is no option {section}.{unknown[0]}")
    try:
        schema = OmegaConf.structured(settings)
        OmegaConf.set_readonly(schema, False)  # frozen dataclasses give read-only schemas
        for name in names:
            OmegaConf.update(schema, name, options[name])
        return OmegaConf.to_object(schema)  # type: ignore[return-value]
    except OmegaConfBaseException as error:
        raise ConfigError(f"{section}.{error.full_key}: {str(error).splitlines()[0]}") from error
    except ConfigError:
        raise
    except ValueError as error:  # of the library
        raise ConfigError(f"{section}.{error}") from error


def composed(*arguments: str) -> dict[str, Any]:
    """The resolved configuration that ``run.py`` makes of its arguments.

    Example:
        >>> composed("experiment=mnist", "trainer.epochs=2")["trainer"]["epochs"]
        2
    """
    # Imported here, as most users of this module need no Hydra.
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    # Within run.py Hydra knows the folder of the configuration already.
    started = GlobalHydra.instance().is_initialized()
    with nullcontext() if started else initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("config", list(arguments))
    return cast("dict[str, Any]", OmegaConf.to_container(config, resolve=True))


def option_text(value: Any) -> str:
    """The value of an option as ``run.py`` reads it.

    Example:
        >>> option_text([1, 2]), option_text(None), option_text("zca")
        ('[1,2]', 'null', 'zca')
    """
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))


def parse_seeds(seeds: Any) -> list[int]:
    """Seeds of a run: ``N`` means 0 to N-1, a list means exactly those.

    Raises:
        ConfigError: for anything but a positive integer or a list of distinct integers, 0 or more.

    Example:
        >>> parse_seeds(3), parse_seeds([3, 7])
        ([0, 1, 2], [3, 7])
    """
    if type(seeds) is int and 1 <= seeds <= MOST_SEEDS:
        return list(range(seeds))
    if (
        isinstance(seeds, list)
        and seeds
        and all(type(seed) is int and 0 <= seed < 2**63 for seed in seeds)
        and len(set(seeds)) == len(seeds)
    ):
        return seeds
    raise ConfigError(
        f"seeds must be a number from 1 to {MOST_SEEDS}, or a list of distinct seeds such as "
        f"seeds=[3,7]; got {seeds!r}"
    )


def require(condition: bool, option: str, range_: str, value: object) -> None:
    """Raise ConfigError if ``condition`` does not hold.

    Example:
        >>> require(3 > 0, "trainer.epochs", "at least 1", 3)
    """
    if not condition:
        raise ConfigError(f"{option} must be {range_}; got {value!r}")
