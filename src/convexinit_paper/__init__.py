"""Reproduces the paper from raw data to figures; works from a checkout of the project."""
