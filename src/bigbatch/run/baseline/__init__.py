"""What a run is held against: simple models of the same training rows, scored by the same metrics on the same rows.

::

    features.py  texts or token ids -> sparse rows of n-grams        sparse.py  what such rows are
    linear.py    a linear model of sparse rows                       lbfgs.py   what finds its least loss
    classify.py  tag.py  match.py  ngram.py  neighbours.py  images.py  prefer.py  seq2seq.py  span.py  one task each
    contact.py  recommend.py  detect.py  diffuse.py  rank.py   one task each, too
    counts.py    smoothed counts of pairs                            model.py   what each of them gives
    fit.py       which baselines a task has, and their figures
    kept.py      fitted once, kept in the run's directory for resumes

None of it draws a random number, and none of it touches the model that is trained.
"""
