"""RecBole's own SASRec, with RecBole's defaults, on the same split: figures and CPU seconds, four times an epoch.

    pip install torch recbole==1.2.1 colorlog texttable thop tensorboard    # in an environment of its own
    python recbole_sasrec.py 600        # CPU seconds of training

As RecBole trains it: every item but a user's first is a sample of its own with the 50 items in front, cross-entropy
over all items, Adam at 1e-3, 2,048 samples a batch, dropout 0.5. All items are ranked but those that a user has rated.
"""

from __future__ import annotations

import json
import sys
import time
from collections import defaultdict
from pathlib import Path

import torch
from recbole.model.sequential_recommender.sasrec import SASRec

DATA = Path(__file__).resolve().parent / "data"
LENGTH, BATCH = 50, 2048
EVERY = 12
"""Updates between two lines; an epoch has 48."""
SETTINGS = {
    "USER_ID_FIELD": "user_id", "ITEM_ID_FIELD": "item_id", "LIST_SUFFIX": "_list", "NEG_PREFIX": "neg_",
    "ITEM_LIST_LENGTH_FIELD": "item_length", "MAX_ITEM_LIST_LENGTH": LENGTH, "device": "cpu",
    "n_layers": 2, "n_heads": 2,
    "hidden_size": 64, "inner_size": 256, "hidden_dropout_prob": 0.5, "attn_dropout_prob": 0.5, "hidden_act": "gelu",
    "layer_norm_eps": 1e-12, "initializer_range": 0.02, "loss_type": "CE",
}  # fmt: skip


class Items:
    """What the model asks of a data set."""

    def __init__(self, count: int) -> None:
        self.count = count

    def num(self, field: str) -> int:
        """Items, and the padding."""
        return self.count


def events(split: str) -> list[tuple[str, float, str]]:
    """(user, time, item) of a file, in its order."""
    rows = [json.loads(line) for line in (DATA / f"{split}.jsonl").read_text().splitlines()]
    return [(row["user"], float(row["time"]), row["item"]) for row in rows]


def padded(histories: list[list[int]]) -> dict[str, torch.Tensor]:
    """The last items of each history, as the model reads them."""
    cut = [history[-LENGTH:] for history in histories]
    ids = torch.tensor([own + [0] * (LENGTH - len(own)) for own in cut])
    return {"item_id_list": ids, "item_length": torch.tensor(list(map(len, cut)))}


@torch.no_grad()
def figures(model: SASRec, histories: list[list[int]], targets: list[int]) -> dict[str, float]:
    """Means of 1 / log2(1 + rank) of ranks up to 10, and of these ranks, over all items that are not in the history."""
    model.eval()
    scores = model.full_sort_predict(padded(histories)).double()
    scores[:, 0] = -torch.inf
    for row, (history, target) in enumerate(zip(histories, targets, strict=True)):
        scores[row, history] = -torch.inf
        if not target:  # never seen in training
            scores[row] = torch.inf
    ranks = (scores >= scores.gather(1, torch.tensor(targets)[:, None])).sum(1)
    gains = torch.where(ranks <= 10, 1 / torch.log2(1 + ranks.double()), 0.0)
    return {"ndcg@10": round(float(gains.mean()), 4), "hr@10": round(float((ranks <= 10).double().mean()), 4)}


def main(seconds: float) -> None:
    """Train for so many CPU seconds."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    by_user: dict[str, list[str]] = defaultdict(list)
    for user, _, item in sorted(events("train"), key=lambda event: event[1]):
        by_user[user].append(item)
    numbers = {
        item: number for number, item in enumerate(sorted({i for own in by_user.values() for i in own}), 1)
    }
    histories = {user: [numbers[item] for item in own] for user, own in by_user.items()}
    held = {}
    for split in ("validation", "test"):
        pairs = [(histories[user].copy(), numbers.get(item, 0)) for user, _, item in events(split)]
        held[split] = [list(each) for each in zip(*pairs, strict=True)]
        for user, _, item in events(split):
            histories[user] += [numbers[item]] if item in numbers else []
    train = [
        (own[:place], own[place])
        for own in ([numbers[item] for item in items] for items in by_user.values())
        for place in range(1, len(own))
    ]
    model = SASRec(SETTINGS, Items(len(numbers) + 1))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    spent, updates, samples = 0.0, 0, 0
    while spent < seconds:
        for batch in torch.randperm(len(train)).split(BATCH):
            started = time.process_time()
            model.train()
            own = [train[number] for number in batch.tolist()]
            inputs = padded([history for history, _ in own])
            inputs["item_id"] = torch.tensor([target for _, target in own])
            optimizer.zero_grad()
            model.calculate_loss(inputs).backward()
            optimizer.step()
            spent += time.process_time() - started
            updates, samples = updates + 1, samples + len(batch)
            if updates % EVERY == 0:
                line = {
                    "epoch": round(samples / len(train), 2),
                    "updates": updates,
                    "cpu_seconds": round(spent, 1),
                }
                print(
                    json.dumps({**line, **{split: figures(model, *of) for split, of in held.items()}}),
                    flush=True,
                )
            if spent >= seconds:
                break


if __name__ == "__main__":
    main(float(sys.argv[1]))
