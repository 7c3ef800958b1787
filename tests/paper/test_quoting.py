"""Commands that messages print can be pasted: Hydra and the shell read the same values back."""

import shlex
import subprocess
import sys

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from convexinit_paper.experiments.best_of_grid import command_for_cells
from convexinit_paper.figures.panels import DIGITS
from convexinit_paper.figures.select import select
from convexinit_paper.request.config import composed, overrides_between
from convexinit_paper.request.quoting import argument, option_text, run_command
from convexinit_paper.sweeps.grid_search import Search

AWKWARD = [
    "x,y",
    "lr=0.1",
    "Ergebnisse (1)",
    "Größe",
    "[1]",
    "{a}",
    "a:b",
    " blanks ",
    "it's",
    '"quoted"',
    "back\\",
    'back\\"',
    "$HOME",
    "${model.name}",
    "\\${x}",
    "~",
    "#",
    "&;|<>*?!`",
    "null",
    "True",
    "12",
    "1e5",
    ".5",
    "inf",
    "",
    "-",
    "a\nb",
    "back\\\n",
    "choice(a,b)",
]
signs = st.sampled_from("ab1,()[]{}=:'\"\\$ \t\n~/äρ%@?|#&;*!<>`-._")
texts = (
    st.sampled_from(AWKWARD)
    | st.text(signs, max_size=10)
    | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=10)
)
scalars = texts | st.booleans() | st.none() | st.integers() | st.floats(allow_nan=False)


def read(override):
    """The value that ``run.py`` sees, and in a sweep."""
    parsed = OverridesParser.create().parse_override(override)
    assert not parsed.is_sweep_override()
    in_sweep = f"x={parsed.get_value_element_as_str()}"
    value, again = (
        OmegaConf.to_container(OmegaConf.create({"x": one.value()}), resolve=True)["x"]
        for one in (parsed, OverridesParser.create().parse_override(in_sweep))
    )
    assert again == value
    return value


@given(scalars | st.lists(scalars, max_size=3))
def test_values_are_read_back(value):
    found = read(argument("x", value))
    assert found == value
    assert type(found) is type(value)


@given(st.lists(texts, min_size=2, max_size=4))
def test_sweeps_are_over_the_given_values(values):
    parsed = OverridesParser.create().parse_override(argument("x", *values))
    assert parsed.is_sweep_override()
    assert [read(f"x={text}") for text in parsed.sweep_string_iterator()] == values


@pytest.mark.slow
@pytest.mark.parametrize("text", AWKWARD)
def test_a_shell_hands_commands_over_as_they_are(text):
    arguments = ["-m", argument("results_dir", text), argument("seeds", [3, 7])]
    command = run_command(arguments).replace(
        "python run.py", f"{shlex.quote(sys.executable)} -c 'import sys; print(sys.argv[1:])'", 1
    )
    shown = subprocess.run(["bash", "-c", command], capture_output=True, check=True, env={})
    assert shown.stdout.decode() == f"{arguments}\n"


def test_plain_values_stand_without_quotes():
    for text in ("icnn_init", "results/demo", "/tmp/a-b_c.d/2024", "../x", "./x", "a.b"):
        assert option_text(text) == text


def request_of(command):
    """The configuration that a printed command asks for."""
    program, script, *arguments = shlex.split(command)
    assert (program, script) == ("python", "run.py")
    return composed(*(argument for argument in arguments if argument != "-m"))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["x,y", "lr=0.1", "Ergebnisse (1)", "Größe", "it's {1}", "$x"])
def test_printed_commands_keep_the_folders(tmp_path, name):
    place = tmp_path / name
    (_, *others) = DIGITS.variants
    panel = type(DIGITS)(DIGITS.experiment, "one", {others[0]: {}})
    (command,) = select(panel, []).commands(place / "runs")
    assert request_of(command)["results_dir"] == str(place)

    places = {"results_dir": str(place), "data_dir": str(place / "data")}
    final = ("experiment=generalisation_final", "search.grid=demo", "dataset=digits")
    config = composed(*final, *(argument(*item) for item in places.items()))
    asked = request_of(command_for_cells(config, Search("demo", 4, [])))
    assert {key: asked[key] for key in places} == places

    before = composed("dataset=image_folder")
    after = composed("dataset=image_folder", argument("dataset.path", name))
    assert composed("dataset=image_folder", *overrides_between(before, after)) == after
