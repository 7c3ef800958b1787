"""From the configuration tree of Hydra to settings, with messages that name the option."""

from __future__ import annotations

import dataclasses
from contextlib import nullcontext
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar, cast, get_type_hints

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from convexinit_paper.request.options import ConfigError, OutOfRangeError
from convexinit_paper.request.quoting import argument, option_text, run_command
from convexinit_paper.request.suggestions import did_you_mean
from convexinit_paper.store.identity import CONTENTS

CONF = Path(__file__).parents[3] / "conf"
T = TypeVar("T")


def parse_section(kind: type[T], options: dict[str, Any], section: str) -> T:
    """Make settings from one section of the configuration.

    Args:
        kind: dataclass whose annotations give the types; it raises a ValueError that begins with
            the name of the option if one is out of range.
        options: the section; beside the fields of the dataclass it may hold a ``name``, and a
            section of data the ``content`` that its run is known by.
        section: its name, for error messages.

    Raises:
        ConfigError: if an option is missing, unknown, of a wrong type, or out of range.
    """
    names = field_names(kind)
    missing = [name for name in names if name not in options]
    if missing:
        raise ConfigError(f"the option {section}.{missing[0]} is missing")
    more = ("name", "content") if f"{section}.content" in CONTENTS else ("name",)
    unknown = [name for name in options if name not in (*names, *more)]
    if unknown:
        name = f"{section}.{unknown[0]}"
        hint = did_you_mean(name, [f"{section}.{known}" for known in names])
        raise ConfigError(f"there is no option {name}.{hint}")
    try:
        schema = OmegaConf.structured(kind)
        OmegaConf.set_readonly(schema, False)  # frozen dataclasses give read-only schemas
        for name in names:
            OmegaConf.update(schema, name, options[name])
        return cast("T", OmegaConf.to_object(schema))
    except OmegaConfBaseException as error:
        reason = str(error).splitlines()[0]
        if "is not a ListConfig" in reason:
            value = options[str(error.full_key)]
            reason = f"must be a list such as [{option_text(value)}]; got {value!r}"
        raise ConfigError(f"{section}.{error.full_key}: {reason}") from error
    except OutOfRangeError as error:
        raise error.within(section) from error
    except ValueError as error:  # of the library
        raise ConfigError(f"{section}.{error}") from error


def parse_settings(kind: type[T], config: dict[str, Any]) -> T:
    """Make the settings of a task from the sections of the configuration.

    Args:
        kind: dataclass with a field for every section, whose annotation is the dataclass of that
            section; a function in its metadata under "parse" makes settings of several kinds.
        config: the resolved configuration.

    Raises:
        ConfigError: if an option is missing, unknown, of a wrong type, or out of range.
    """
    kinds = get_type_hints(kind)
    sections = {}
    for field in dataclasses.fields(kind):  # type: ignore[arg-type]
        options = config[field.name]
        parse = field.metadata.get("parse")
        try:
            sections[field.name] = (
                parse(options) if parse else parse_section(kinds[field.name], options, field.name)
            )
        except ConfigError:
            _check_choice(config, field.name, kinds, varies=parse is not None)
            raise
    return kind(**sections)


def _check_choice(
    config: dict[str, Any], section: str, kinds: dict[str, type], varies: bool
) -> None:
    """Raise ConfigError if ``section=choice`` is a choice for other experiments.

    Args:
        config: the resolved configuration.
        section: name of the section, and of the group of the configuration.
        kinds: the dataclass of every section of the experiment.
        varies: whether some choices of the section have more options than its dataclass.
    """
    names = {*field_names(kinds[section]), "name"}

    def fits(choice: str) -> bool:
        # Its own options, without those that an experiment adds.
        own = {*composed(f"{section}={choice}", "~experiment")[section], "name"}
        return own >= names if varies else own == names

    choices = sorted(path.stem for path in (CONF / section).glob("*.yaml"))
    chosen = config[section].get("name")
    if chosen not in choices or fits(chosen):
        return
    fitting = [choice for choice in choices if fits(choice)]
    if len(fitting) > 1:
        raise ConfigError(
            f"{section}={chosen} is not for this experiment; choose one of {section}="
            f"{', '.join(fitting)}"
        )
    own = ", ".join(f"{section}.{name}" for name in sorted(names - {"name"}))
    others = ", ".join(name for name in kinds if name != section)
    raise ConfigError(
        f"this experiment has no {section} to choose: leave {section}={chosen} out. It has instead "
        f"{own} and the options of {others}, which "
        f"{run_command([argument('experiment', config['name']), '--help'])} lists."
    )


def field_names(kind: type) -> list[str]:
    """Names of the fields of a dataclass."""
    return [field.name for field in dataclasses.fields(kind)]


def composed(*arguments: str) -> dict[str, Any]:
    """The resolved configuration that ``run.py`` makes of its arguments.

    Example:
        >>> composed("experiment=mnist", "trainer.epochs=2")["trainer"]["epochs"]
        2
    """
    return cast("dict[str, Any]", OmegaConf.to_container(_composed(*arguments), resolve=True))


@lru_cache(maxsize=1000)
def _composed(*arguments: str) -> DictConfig:
    """The configuration that is still to be resolved; 0.1 s of work, done once in a process."""
    # Imported here, as most users of this module need no Hydra.
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    # Within run.py Hydra knows the folder of the configuration already.
    started = GlobalHydra.instance().is_initialized()
    with nullcontext() if started else initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("config", list(arguments))


def overrides_between(before: dict[str, Any], after: dict[str, Any], prefix: str = "") -> list[str]:
    """The arguments of ``run.py`` that make one configuration of another.

    Args:
        before: a configuration or one of its sections.
        after: the same with other values, or without some options.
        prefix: the section, with a dot.

    Example:
        >>> overrides_between({"a": {"b": 1, "c": 2, "d": 3}}, {"a": {"b": 1, "c": [4]}})
        ['a.c=[4]', '~a.d']
    """
    arguments = []
    for name, value in before.items():
        if name not in after:
            arguments.append(f"~{prefix}{name}")
        elif isinstance(value, dict):
            arguments += overrides_between(value, after[name], f"{prefix}{name}.")
        elif value != after[name]:
            arguments.append(argument(f"{prefix}{name}", after[name]))
    return arguments
