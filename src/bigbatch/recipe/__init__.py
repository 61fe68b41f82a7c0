"""The recipe: what to compute. Its schema, how it is read and merged, and the names other tools use.

A recipe is read by `load.load_recipe`, is a frozen `schema.Recipe`, and is written by `load.dump_recipe`.

    values.py              value types: counts, numbers, quantities; what is built and what is planned
    inputs.py              sections data and batch
    tasks.py               section task, and the options of each
    learning.py            sections model, optimizer, schedule, loss and their kin
    adapters.py            section model.adapter
    attention.py           section model.attention: which tokens see which
    words.py               lists of words that other rooms know too
    optimizers.py          the optimisers by name, and what holds of each
    machine.py             sections sync, guard, scale, plan, launch and run
    schema.py              Recipe, the whole
    sugar.py               short forms to long forms; groups of alternatives
    yaml12.py              YAML 1.2 core schema with line numbers
    layers.py              site < extends < file < environment < command line
    keys.py                all keys, walked out of the schema
    messages.py            what is wrong, where, in the user's words
    foreign.py             names that other tools use for our keys
    training_arguments.py  Hugging Face TrainingArguments to a recipe
    stages.py              `stages:`: several trainings in one recipe
    load.py                load_recipe, dump_recipe
    references.py          import references to the user's own code
    reference.py           the Markdown reference of all keys
    collators.py           Hugging Face's data collators as options of a task
    pairs.py               what sentence-transformers calls a loss and a dataset
    names.py               names that become words of ssh and lines of a batch script
    made_here.py           whether code that a run names was put there by this user
    findings.py            what `bigbatch init` knows before it writes the first recipe
    model_facts.py         what is known about a model before it is loaded
    starter.py             the first recipe; starter_task.py and starter_model.py choose its task and its model
"""
