"""Figures and tables from stored runs: ``python -m convexinit_paper.figures --help``.

``catalogue``: every figure and table, and what it shows; ``variants``, ``panels``: what is
compared; ``select``: the stored runs of a panel; ``drawings``, ``tables``, ``claims``: what is made
of them.
"""
