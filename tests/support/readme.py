"""The examples of the README."""

from support.data import ROOT


def python_examples() -> list[str]:
    """Its blocks of Python, in their order."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    return [part.split("```")[0] for part in text.split("```python\n")[1:]]
