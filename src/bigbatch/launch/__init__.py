"""Starts processes, on one machine or on several, and maps their ends to an exit code.

::

    start.py      whether to start processes, and where
    local.py      several on this machine: an agent starts them, watches them and starts them again
    endings.py    what each rank left behind -> one exit code and one sentence
    place.py      where this process stands among others
"""
