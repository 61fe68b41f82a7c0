"""What is learnt: columns, targets, losses per unit, denominators and metrics. One file a task.

::

    base.py       what a task is
    facts.py      what a run tells it
    labelled.py   what tasks share whose units have labels or numbers, and whose loss the recipe chooses
    classify.py   single label, multi-label, regression; one text or a pair
    described.py  predictions as plain data
    stand_in.py   what is measured in place of a loss of a whole batch
    tag.py        a tag for each word of a sentence
    match.py      embeddings of texts that belong together
    texts.py      rows of several texts, and tables of texts
    contrast.py   the loss of a batch of pairs
    matching.py   the figures of matching by name
    retrieval.py  exact ranks in a corpus
    sentence_transformers.py  the files of its model folders
    inputs.py     text or words -> token ids, one tokenizer call for many rows
    losses.py     one value per unit, class weights, losses of your own
    metrics.py    the figures of classification by name
    tag_metrics.py  the figures of tagging by name
    entities.py   entities in tagged sentences, counted in any pieces of the stream
    states.py     figures as states that can be merged
    figures.py    the formulas behind them: counts, ranks, correlations
    row_scores.py what each row adds to a figure, so that two evaluations can be paired
    sums.py       sums of floats that do not depend on order
    catalog.py    recipe -> task, loss and metrics, import references included; tasks that do not extend the base
"""
