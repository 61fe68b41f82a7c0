"""The computation graph: nothing is computed that nobody reads, nothing is kept that is cheaper to compute again.

::

    graph/
    └── lazy.py   the last block for read tokens only
"""
