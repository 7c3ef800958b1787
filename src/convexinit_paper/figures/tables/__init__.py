"""Tables: as numbers, and as Markdown or LaTeX for people."""
