"""Shows runs to people: while they go on, and from the files of finished, running and interrupted ones. No torch.

::

    report/
    ├── read.py        a run directory -> RunData
    ├── following.py   a journal read on from where the last look ended
    ├── text.py        how words and numbers are shown: control characters and secrets out, short figures
    ├── facts.py       RunData -> the figures that the report states, each worked out in one place
    ├── quality.py     evaluation.json -> per-class figures, calibration, confusions
    ├── texts.py       texts beside what was wanted, prompts and what they were continued with
    ├── recipes.py     recipe.yaml -> flat keys, and what differs between runs
    ├── scales.py      ticks, scales and thinning for charts
    ├── svg.py         elements and line charts: hand-written SVG
    ├── shapes.py      bars, heat-map, reliability diagram
    ├── figures.py     the report's charts, drawn from RunData
    ├── noise.py       how large a batch is worth using: curve, band, sentence
    ├── page.py        templates filled in, charts as files of their own, files written in one step
    ├── graph.py       what a micro-batch computes: picture, page, section
    ├── stages.py      the stages of a run: a row each
    ├── scenes.py      images with what is on them and what a model finds there
    ├── drawn.py       images that a model has drawn
    ├── contacts.py    which letters of a chain touch, and which are said to
    ├── talks.py       conversations as they are trained on
    ├── html.py        one offline report.html
    ├── notebook.py    what notebooks show of runs and comparisons
    ├── compare.py     several runs: table and overlaid curves
    ├── points.py      what the points of a sweep came to: groups over seeds, results.csv
    ├── sweep.py       the page of a sweep
    ├── scale.py       the page of `bigbatch scale`
    ├── console.py     a run while it goes on: a live line on a terminal, plain lines elsewhere
    ├── observers.py   whom else a recipe wants to hear of its records, made harmless
    └── templates/     Jinja templates, autoescaped
"""
