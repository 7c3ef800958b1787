"""Plugins of Hydra: how the runs of a sweep are chosen, launched and reported.

Hydra finds plugins in packages below ``hydra_plugins`` alone, and imports them at every start, so
nothing heavy is imported here before it is used.
"""
