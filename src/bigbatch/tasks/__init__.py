"""What is learnt: columns, targets, losses per unit, denominators. One file a task.

::

    base.py       what a task is
    facts.py      what a run tells it
    labelled.py   what tasks share whose units have labels or numbers, and whose loss the recipe chooses
    classify.py   single label, multi-label, regression; one text or a pair
    described.py  predictions as plain data
    stand_in.py   what is measured in place of a loss of a whole batch
    tag.py        a tag for each word of a sentence
    prefer.py     the better of two answers
    reward.py     a number for an answer, learnt of pairs of answers
    pair_losses.py  what is minimised of two answers: dpo, ipo, simpo, orpo
    match.py      embeddings of texts that belong together
    chat.py       the assistant's part of a conversation
    dialogue.py   conversations as text, by the chat template; which of it the assistant has written
    chat_rows.py  that text as tokens; what is left out where there is no room
    templates.py  the chat template of a task
    answers.py    a prompt and two answers as tokens
    rank.py       which of a query's candidates are relevant
    recommend.py  the next item of a user
    image.py      the class of an image
    detect.py     things on images, each with a box and a class
    detect_rows.py  images with boxes as samples      box_losses.py  which box stands for which thing, and how far off
    span.py       answers to questions, found in texts
    windows.py    questions and long texts -> windows of token ids; answers that stand elsewhere are refused
    contact.py    letters of a sequence that touch when it is folded
    diffuse.py    images drawn: the velocity of noisy ones
    pictures.py   what a model takes for an image
    strands.py    sequences of nucleotides read from the other strand
    contrast.py   the loss of a batch of pairs
    teacher.py    losses of pairs by a teacher's scores
    inputs.py     text or words -> token ids, one tokenizer call for many rows
    losses.py     one value per unit, class weights, losses of your own
    catalog.py    recipe -> task, loss and metrics, import references included; tasks that do not extend the base
"""
