"""What a user may have meant by an option that there is not."""

from __future__ import annotations

import difflib
from collections.abc import Collection

# What others call an option, beside its initials and beginning.
SYNONYMS = {
    "num_hidden": ("depth", "layers", "num_layers", "hidden_layers"),
    "width": ("hidden_size", "units", "channels"),
    "epochs": ("num_epochs", "max_epochs"),
    "weight_decay": ("l2", "decay"),
    "seeds": ("num_seeds",),
    "results_dir": ("output_dir", "out"),
}


def did_you_mean(name: str, options: Collection[str]) -> str:
    """A hint for a misspelt option, with a space before it; an empty string if none is near.

    Options of the same section come first.

    Args:
        name: with its section, if it was given with one.
        options: that there are, with their sections.

    Example:
        >>> did_you_mean("trainer.lr", ["seeds", "trainer.learning_rate", "trainer.epochs"])
        ' Did you mean trainer.learning_rate?'
    """
    section, _, word = name.rpartition(".")
    siblings = [option for option in options if option.rpartition(".")[0] == section]
    for some in (siblings, options):
        full = {option.rpartition(".")[2]: option for option in some}
        meant = [known for known in full if _is_another_name(word, known)]
        meant += difflib.get_close_matches(word, full, n=1, cutoff=0.6)
        if meant:
            return f" Did you mean {full[meant[0]]}?"
    return ""


def _is_another_name(word: str, known: str) -> bool:
    """Whether a word is an option, its initials, a synonym, or one begins as the other."""
    initials = "".join(part[:1] for part in known.split("_"))
    return (
        word in (known, initials, *SYNONYMS.get(known, ()))
        or known.startswith(f"{word}_")
        or word.startswith(known)
    )
