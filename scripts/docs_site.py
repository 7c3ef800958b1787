"""What the site of ``make docs`` shows from outside of ``docs/``, and links in docstrings.

MkDocs calls the functions, as ``hooks`` of ``mkdocs.yml``; mkdocstrings uses the class.
"""

import re
from pathlib import Path

import griffe
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from convexinit_paper.figures.catalogue import CATALOGUE

ROOT = Path(__file__).parents[1]

FIGURES = {figure.name: figure.says for figure in CATALOGUE if figure.draw}


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
