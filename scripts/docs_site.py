"""What the site of ``make docs`` shows from outside of ``docs/``, and links in docstrings.

MkDocs calls the functions, as ``hooks`` of ``mkdocs.yml``; mkdocstrings uses the class.
"""

import re
from pathlib import Path

import griffe
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]

FIGURES = {
    "figure-1": "Signals in untrained networks, layer by layer, beside what the theory predicts.",
    "figure-2": "Training loss of input-convex networks with the paper's initialisation and "
    "without, with skip connections, and of a non-convex network.",
    "figure-3": "Accuracy and loss on the test set after every epoch, with the options that a "
    "search chose for every variant.",
    "figure-4": "Walks between molecules along a level set: the predicted toxicity stays, the "
    "drug-likeness (QED) changes.",
    "figure-5": "Training loss of networks with three, five and seven hidden layers.",
    "figure-6": "As Figure 1, for all variants and with random biases.",
    "figure-7": "Training loss with random biases in place of constant ones.",
    "figure-8": "Training loss with the paper's bias but the usual weights.",
    "figure-9": "Training loss for three target correlations ρ of the initialisation.",
    "figure-10": "Training loss of networks whose weights are kept positive by exp instead of "
    "projection.",
    "figure-11": "As Figure 3, for weights that are kept positive by exp.",
    "baselines": "Training loss with another way to start (LSUV), by itself or after the paper's, "
    "and of the difference of two input-convex networks, which is not convex.",
    "positivity": "Training loss for six ways to keep weights non-negative, which the paper does "
    "not compare.",
}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the README as first page, two more documents, and the figures."""
    outside = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"]
    outside += [f"results/figures/{path.name}" for path in ROOT.glob("results/figures/*.png")]
    for name in outside:
        page = "index.md" if name == "README.md" else name
        files.append(File.generated(config, page, abs_src_path=str(ROOT / name)))
    return files


def on_page_markdown(markdown: str, page: Page, **_: object) -> str:
    """Complete the gallery, and let links into and out of ``docs/`` find their target."""
    if page.file.src_uri == "gallery.md":
        markdown = markdown.replace("<!-- figures -->", gallery())
    for before, after in {"(../README.md": "(index.md", "(../": "(", "(docs/": "("}.items():
        markdown = markdown.replace("]" + before, "]" + after)
    return markdown


def gallery() -> str:
    """Every figure with its title and one sentence, as Markdown."""
    return "\n\n".join(
        f"## {name.replace('-', ' ').capitalize()}\n\n"
        f"{sentence}\n\n![{sentence}](results/figures/{name}.png)"
        for name, sentence in FIGURES.items()
    )


class LinkedNames(griffe.Extension):
    """Names in docstrings become links where they name something in the reference.

    Both ways of writing them are read: ``:func:`~package.name` `` and a name in single backticks.
    """

    def on_object(self, *, obj: griffe.Object, **_: object) -> None:
        """Rewrite the docstring of one module, class, function or attribute."""
        if obj.docstring:
            text = re.sub(r"(?m)^(\s*)Example:$", r"\1Examples:", obj.docstring.value)
            name = r"(?::\w+:)?(?<!`)`(~?)([\w.]+)`(?!`)"
            obj.docstring.value = re.sub(name, lambda match: linked(obj, *match.groups()), text)


def linked(obj: griffe.Object, tilde: str, name: str) -> str:
    """HTML of a name as seen from an object: a link if the reference has it, else plain code."""
    try:
        path = obj.resolve(name)
    except griffe.NameResolutionError:
        path = name
    shown = name.rpartition(".")[2] if tilde else name
    return f'<autoref identifier="{path}" optional><code>{shown}</code></autoref>'
