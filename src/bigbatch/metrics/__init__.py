"""Figures of evaluations: exact, the same however a split is cut, and of each row where rows are compared.

::

    figures.py    the formulas: counts, ranks, correlations; what has none is `Undefined`, with the reason
    slopes.py     how each row would move a figure
    sums.py       sums of floats that do not depend on order
    states.py     figures as states that can be merged
    classify.py   the figures of classification by name
    tag.py        the figures of tagging by name
    entities.py   entities in tagged sentences, counted in any pieces of the stream
    listwise.py   figures of ranked candidates, query by query
    recommend.py  figures of ranked lists of items
    match.py      the figures of matching by name; exact ranks in a corpus
    perplexity.py the figures of language models by name
    prefer.py     the figures of preferences by name
    bleu.py       BLEU and chrF of written texts      rouge.py     ROUGE-L      written.py   their names
    span.py       answers against the right ones, as SQuAD and CMRC 2018 count
    boxes.py      figures of detection, as COCO counts them
    best_span.py  the best answer over all windows of a text
    contact.py    letters that touch: precision of the surest pairs
    naming.py     what figures are called in results, and which names are taken
    row_scores.py what each row adds to a figure, so that two evaluations can be paired
    watched.py    which figure `best`, `early_stopping` and `gate` mean
"""
