"""What the paper claims, and whether stored runs agree.

A claim (:mod:`.claims`) says that a measure (:mod:`.measures`) of some variants stands in a
relation (:mod:`.relations`) to that of others, or to a threshold. It is judged on each data set by
itself, and on the runs that the figures draw. None of these is changed because of what is found.
"""
