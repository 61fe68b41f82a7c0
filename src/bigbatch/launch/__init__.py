"""Starts processes, on one machine or on several, and maps their ends to an exit code.

::

    place.py    where this process stands among others
"""
