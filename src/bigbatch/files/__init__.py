"""Files of any kind -> Raw: rows whose columns still have their own names and types. Nothing in a file is run.

::

    kinds.py        files and folders by what their name ends in
    contents.py     the bytes of a file, unpacked within a rule
    expanded.py     the same rule for columns that are stored shorter than they are
    delimited.py    CSV and TSV: pyarrow's reader, and a strict scan that names every bad row
    jsonlines.py    JSON Lines, one problem per bad line
    squad.py        files of questions as SQuAD has them, and the forms of answers
    parquets.py     columns of Parquet files
    ipc.py          Arrow files and streams
    conll.py        a word a line
    tfrecords.py    TFRecord files of tf.train.Example, read and written
    sequences.py    FASTA and FASTQ
    pdb.py  mmcif.py  structures of proteins           chains.py   their rows
    folds.py        what a column says of how a sequence is folded
    images.py       images: folders, idx files, paths and bytes in a column
    coco.py         images with boxes as COCO has them     boxes.py  the forms of boxes
    converted.py    rows of one kind of file as another
    parted.py       rows dealt to training, validation and test
    similar.py      which texts are alike
    raw.py          Raw
    plain.py        any library's values as Python's, as text, or as missing
    class_names.py  which class a value stands for, for every reader
    line_numbers.py  bytes -> lines as people count them
    problems.py     collecting what is wrong, the first 20 places shown
"""
