"""Figures and tables from stored runs: ``python -m convexinit_paper.figures --help``."""
