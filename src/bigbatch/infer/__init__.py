"""Forward only: evaluate a split, predict rows and files, open what was trained.

::

    forwards.py   a tokenised table through the model, outputs in table order
    evaluate.py   loss, metrics, confusion, calibration, the most confidently wrong rows
    chunks.py     the units of a split, some at a time
    mistakes.py   single units that are wrong, the surest first
    scenes.py     images with what is on them and what is found there
    answers.py    answers on a split, and which of them are wrong
    draw.py       images from noise
    maps.py       chains whose contacts are shown
    predict.py    rows in, predictions out, some at a time
    files.py      predict_file: any file that trains in, CSV or JSON Lines out
    unlabelled.py the rows to predict, of any file or object, with their places
    generate.py   texts that an encoder-decoder writes of a split
    prompts.py    what to write from, of files and objects, with places
    texts.py      prompts in, texts out, as if each were alone
    decoding.py   one batch of texts, token by token        sampling.py   drawn by (seed, row, token)
    kept_texts.py texts into a file that goes on after an interruption
    alike.py      whether what was exported gives the model's outputs
    onnx.py       a model as ONNX                           program.py    as a program of torch.export
    gguf.py       as llama.cpp reads it                     savedmodel.py as TensorFlow does (in_tensorflow.py: there)
    writers.py    predictions as JSON Lines or CSV; complete files or none
    whole.py      and as one JSON value: answers by id, COCO's results
    embed.py      texts through a model of embeddings; what a guide says of the rows of a run
    mine.py       hard negatives of pairs, by the embeddings of all their texts
    search.py     the nearest of many embeddings, exactly
    earlier.py    what a run's own splits say of the users that it is evaluated on
    rows.py       evaluate_rows: labelled files or datasets with an opened model
    export.py     a trained model as a plain Hugging Face folder, or as other programs run it
    origin.py     where a live model says it comes from
    load.py       a run or any Hugging Face classification folder, ready to use
"""
