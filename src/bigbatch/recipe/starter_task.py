"""The task of the first recipe, by its data and its model; the figure that chooses the weights; class weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from bigbatch.recipe.findings import Findings

STRATIFIED = ("classify", "image")
"""Tasks whose held-out share is stratified by label."""
SKEWED = 3.0
"""Largest class / smallest class from which weights are spoken of."""
HANDFUL = 30
"""Rows of a class that are too few to be counted many times each."""
BLOCK_TOKENS = 512
"""Length of the blocks of a running text, where the model takes as much."""
_FEWEST_RANKED = 1000
"""Rows from which one of ten among the validation's documents is hard to hit by chance."""


@dataclass(frozen=True, kw_only=True)
class PickedTask:
    """A task, as the recipe has it, with its reason."""

    name: str
    written: str
    """Behind `task: `."""
    why: str
    said: str
    """The same in a few words, for the line that says what was found."""
    notes: tuple[str, ...] = ()
    """Further comments."""
    joined: bool = False
    """Whether rows are joined into blocks."""


def picked_task(found: Findings) -> PickedTask:
    """Labels say what is learnt; without them two texts are matched, and one is learnt as its model reads."""
    if found.kind == "tags":
        runs = _entities(found) == "runs"
        why = "a tag for each word of a sentence"
        why += (
            "; most words are O and no tag has B- or I-: a run of words of one tag is an entity"
            if runs
            else ""
        )
        return PickedTask(
            name="tag", written="{name: tag, scheme: io}" if runs else "tag", why=why, said="tags"
        )
    if found.events:
        return _RECOMMEND
    if found.image is not None:
        return _IMAGE if found.boxes is None else _DETECT
    if found.structure is not None:
        return _CONTACT
    if found.parts:
        return PickedTask(
            name="chat",
            written="chat",
            why="conversations: what the assistant says is learnt, in the chat template of the model",
            said="conversations (task: chat)",
            notes=("a model without a chat template takes {name: chat, template: chatml}",),
        )
    if found.answers is not None:
        some = found.unanswerable > 0
        return PickedTask(
            name="span",
            written="{name: span, null_threshold: 0}" if some else "span",
            why="the answer to a question, found in a text"
            + (f"; {found.unanswerable:,} questions have none" if some else ""),
            said="questions and where their answers stand (task: span)",
        )
    if found.chosen is not None and found.known is not None and found.known.kind == "masked":
        return PickedTask(
            name="reward",
            written="{name: reward, centring: 0.01}",
            why="a prompt with a chosen and a rejected answer, and a model that does not write: a number for an answer",
            said="chosen and rejected answers: a reward model (task: reward)",
            notes=("a causal model learns to answer so itself: {name: prefer, beta: 0.1}",),
        )
    if found.chosen is not None:
        return PickedTask(
            name="prefer",
            written="{name: prefer, beta: 0.1}",
            why="a prompt with a chosen and a rejected answer: the chosen one is made likelier (DPO)",
            said="chosen and rejected answers: preferences (task: prefer)",
            notes=(
                "the model must be causal; one that has learnt good answers before (task: clm) starts better,",
                "one that has not takes `loss: orpo`; to learn a number for an answer: {name: reward, centring: 0.01}",
            ),
        )
    if found.label is not None:
        why = {
            "single": "one label a row",
            "multi": "several labels a row",
            "regression": "a number a row",
        }[found.kind]
        return PickedTask(
            name="classify", written=f"{{name: classify, kind: {found.kind}}}", why=why, said=found.kind
        )
    if found.document is not None:
        two_stacks = found.known is not None and found.known.kind == "encoder-decoder"
        writes = two_stacks or (found.writes and (found.known is None or found.known.kind == "unknown"))
        shorter = found.document.strip().lower() in _SUMMARIES
        return (_SUMMARY if shorter else _SEQ2SEQ) if writes else _match(found)
    return _language(found)


_CONTACT = PickedTask(
    name="contact",
    written="contact",
    why="a sequence and how it is folded: which of its letters touch",
    said="sequences and their structures (task: contact)",
    notes=(
        "columns words and tags of a protein's file: helix, strand or neither of each letter, for task: tag;",
        "RNA in brackets takes {name: contact, separation: 4}; a model without a tokenizer: tokenizer: letters",
    ),
)
_RECOMMEND = PickedTask(
    name="recommend",
    written="recommend",
    why="who had which item when: the next item of a user is learnt",
    said="events of users and items (task: recommend)",
    notes=(
        "ratings and other columns are not read; {name: recommend, repeats: true} where items are had again;",
        "bigbatch split FILE FOLDER --by last --column USER --time TIME keeps the last event of each user for a test",
    ),
)
_DETECT = PickedTask(
    name="detect",
    written="detect",
    why="things on images, each with a box and a class",
    said="boxes on images (task: detect)",
    notes=("{name: detect, augment: {flip: 0.5, crop: 8}} mirrors and shifts images while training",),
)
_IMAGE = PickedTask(
    name="image",
    written="image",
    why="the class of an image",
    said="images",
    notes=(
        "{name: image, augment: {flip: 0.5, crop: 8}} mirrors and shifts images while training;",
        "no flip where left and right mean something, as in letters",
    ),
)
_SEQ2SEQ = PickedTask(
    name="seq2seq",
    written="seq2seq",
    why="two texts a row, and the second is written from the first: data.columns says which is which",
    said="a text and what is written from it (task: seq2seq)",
    notes=(
        "the texts that the model writes are scored where sacrebleu is installed (pip install 'bigbatch[seq2seq]'):",
        "metrics: [bleu, chrf, perplexity]; to find the second text by the first instead: task: match",
    ),
)


_SUMMARIES = ("summary", "highlights", "abstract", "headline", "tldr")
"""Names of columns that say what a longer text is about."""
_SUMMARY = PickedTask(
    name="seq2seq",
    written="seq2seq",
    why="a text a row and its summary, which is written from it: data.columns says which is which",
    said="a text and its summary (task: seq2seq)",
    notes=(
        "to score the summaries that the model writes, beside the first sentences of each text:",
        "metrics: [rouge_l, rouge_lsum, perplexity]; a long text is cut at data.max_length, a summary at",
        "task.target_max_length; T5 was trained with task.source_prefix: 'summarize: '",
    ),
)


def _match(found: Findings) -> PickedTask:
    return PickedTask(
        name="match",
        written="match",
        why="two texts a row and no label: learns embeddings by which each query finds its document",
        said="two texts and no label: matching (task: match)",
        notes=(
            "to write the second text from the first (translate, answer, summarise): task: seq2seq",
            "to learn the texts themselves: {name: mlm} or {name: clm}, with data.columns: {text: …}",
        ),
    )


def _language(found: Findings) -> PickedTask:
    causal = found.known is not None and found.known.kind == "causal"
    name = "clm" if causal else "mlm"
    options = {"name": name} if causal else {"name": name, "probability": "0.15"}
    if causal:
        why = "no column looks like a label, and the model is causal: it learns to predict the next token"
    else:
        why = "no column looks like a label, so tokens are hidden and predicted"
        why += (
            "; a causal model would learn the next token instead (task: clm)" if found.known is None else ""
        )
    notes: tuple[str, ...] = ()
    if found.running is not None:
        share = f"{found.running:.0%} of the lines are carried on by the next one"
        options["blocks"] = "fixed"
        notes = (f"blocks: fixed: {share}, so lines are joined; documents: each row by itself",)
    what = "causal" if causal else "masked"
    return PickedTask(
        name=name,
        written="{" + ", ".join(f"{key}: {value}" for key, value in options.items()) + "}",
        why=why,
        said=f"no label column: {what} language modelling (task: {name})"
        + (", running text" if found.running is not None else ""),
        notes=notes,
        joined=found.running is not None,
    )


def _entities(found: Findings) -> Literal["marks", "runs"] | None:
    """How tags mark entities: by prefixes, as runs of one tag among words that are mostly outside, or not at all."""
    counts = found.class_counts
    if all(name == "O" or (name[:1] in "BIESLUM" and name[1:2] == "-") for name in counts):
        return "marks"
    prefixed = any(name[1:2] == "-" for name in counts)
    return "runs" if not prefixed and 2 * counts.get("O", 0) > sum(counts.values()) else None


def columns_of_task(found: Findings) -> dict[str, str | None]:
    """Role -> column."""
    task = picked_task(found).name
    if task == "chat":
        return dict(found.parts)
    if task == "recommend":
        return dict(found.events)
    if task == "tag":
        return {"words": found.text, "tags": found.label}
    if task == "seq2seq":
        return {"source": found.text, "target": found.document}
    if task == "span":
        return {"question": found.question, "context": found.text, "answers": found.answers}
    if task in ("prefer", "reward"):
        return {"prompt": found.text, "chosen": found.chosen, "rejected": found.rejected}
    if task == "match":
        return {"query": found.text, "document": found.document, "negative": found.negative}
    if task == "image":
        return {"image": found.image, "label": found.label}
    if task == "contact":
        return {"sequence": found.text, "structure": found.structure}
    if task == "detect":
        return {"image": found.image, "boxes": found.boxes, "classes": found.label}
    if task == "classify":
        return {"text": found.text, "pair": found.pair, "label": found.label}
    return {"text": found.text}


def length_lines(found: Findings) -> list[str]:
    """`data.max_length`: of blocks how long they are, else a remark."""
    if picked_task(found).joined:
        positions = (found.known.positions if found.known else None) or BLOCK_TOKENS
        return [f"  max_length: {min(positions, BLOCK_TOKENS)}   # tokens of a block"]
    if found.events:
        return ["  max_length: 50   # items that are seen at a time"]
    if not found.lengths:
        return []
    if found.answers is not None:
        return [
            "  # max_length: 384   # tokens of a window of the text; without it as many as the model allows"
        ]
    return ["  # max_length: 256   # cuts longer samples; without it they are as long as the model allows"]


def loss_lines(found: Findings) -> list[str]:
    """Nothing, or what class weights would do: they are never the default.

    A weight raises the recall of small classes and the false alarms of all. Where a class has a handful of rows each of
    them would count many times, and the run would learn those rows instead of the class.
    """
    counts = {label: count for label, count in found.class_counts.items() if count > 0}
    if found.kind not in ("single", "multi") or not counts or found.boxes is not None:
        return []
    smallest = min(counts, key=lambda label: counts[label])
    ratio = max(counts.values()) / counts[smallest]
    if ratio <= SKEWED:
        return []
    name = smallest if smallest.isprintable() and len(smallest) <= 60 else "the smallest class"
    skew = f"the largest class has {ratio:,.1f} times the rows of the smallest"
    if counts[smallest] < HANDFUL:
        return [
            "",
            f"# No class weights: {skew} ({name}: {counts[smallest]:,}), and each of its few rows would count",
            f"# as much as {ratio:,.0f} of the largest: such weights teach the rows, not the class.",
        ]
    loss = "bce" if found.kind == "multi" else "cross_entropy"
    return [
        "",
        f"# loss: {{name: {loss}, class_weights: balanced}}   # {skew}; weights find more rows of small",
        "# classes and raise more false alarms. Not the default: it can cost more than it gains. Compare.",
    ]


def best_lines(found: Findings) -> list[str]:
    """The figure that chooses the weights."""
    metric, why = _best(found)
    return ["", f"best: {metric}   # chooses the weights that are kept: {why}"]


def _best(found: Findings) -> tuple[str, str]:
    task = picked_task(found).name
    if task == "tag":
        return ("f1", "of entities, as seqeval counts them") if _entities(found) else ("accuracy", "of words")
    if task == "match":
        if found.rows < _FEWEST_RANKED:
            return (
                "mrr@10",
                "1 / the rank of the right document; of so few documents most are among the first 10",
            )
        return "recall@10", "the share of queries whose document is among the first 10"
    if task == "recommend":
        return "ndcg@10", "how far up the next item stands among all, where it is among the first ten"
    if task == "detect":
        return "map", "the mean average precision over classes and IoU .50 to .95, as COCO counts it"
    if task == "span":
        return "f1", "the words that the given answer and the right one have in common"
    if task == "contact":
        return "long_precision@L", "the share of contacts among the L surest of the pairs that are far apart"
    if task in ("prefer", "reward"):
        return "accuracy", "the share of pairs whose chosen answer has the larger reward"
    if task in ("clm", "mlm", "seq2seq", "chat"):
        return "perplexity", "exp(loss of a token), less is better"
    if found.kind == "regression":
        return "r2", "the share of the variance that is explained"
    return "f1_macro", "every class counts the same"
