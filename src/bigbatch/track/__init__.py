"""Watches records while a run goes on. Reads them, never the loop; nothing here can end a run.

::

    track/
    ├── console.py     progress for people: a live line on a terminal and in notebooks, plain lines elsewhere
    └── observers.py   the observers that a recipe names, made harmless
"""
