"""A page that follows runs while they go on, and shows those that have ended: from their files alone.

::

    watch/
    ├── curves.py      a figure over samples in bounded memory, however long the run
    ├── observed.py    one run: its journal read on, its small files read again when they change
    ├── runs.py        the run directories below the folders that were named; those that are looked at
    ├── charts.py      one run in detail, or several over each other
    ├── figures.py     tiles, tables and sentences of what was read; the same as JSON
    ├── page.py        the page and its parts, as text
    └── server.py      127.0.0.1, a token in the address, GET only

Nothing here writes, locks or sends: a run cannot notice that it is watched. No torch.
"""
