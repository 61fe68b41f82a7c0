"""Answer requests over HTTP: `bigbatch serve`.

What arrives within a few milliseconds runs as one pack through the code of `predict` and `generate`.

::

    server.py     listen, drain on SIGTERM, reload on SIGHUP
    listening.py  sockets; connections that say nothing are left
    app.py        the application: all paths, for any ASGI server
    heap.py       what malloc keeps, bounded
    guard.py      who may ask, and how much: in front of every path
    own.py        /predict /embed /rank /generate and what watches them
    openai.py     /v1: embeddings, completions, chat completions
    bodies.py     what a request may hold
    asking.py     one request's wait for its answer: deadline, cancellation
    models.py     names -> models; a newer one takes over
    engine.py     one model and its thread: gather, run, answer
    work.py       what an engine is asked: rows to predict, prompts to write from
    queue.py      who waits for an engine, bounded
    figures.py    Prometheus
    refusals.py   every answer that is an error
    limits.py     how much of anything
    page.py       a page to try it by hand
"""
