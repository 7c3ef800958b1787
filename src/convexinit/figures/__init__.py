"""Figures and tables of the paper from stored runs: ``python -m convexinit.figures --help``."""
