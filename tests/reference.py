"""The oracle: large-batch training as a textbook writes it. Imports nothing from bigbatch, and must not.

One update = one forward of the whole padded global batch, the weighted sum of the losses divided by the sum of
the weights, one backward, one clip, one step of the optimiser. Nothing is split, sorted, packed or accumulated.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F


def padded(batch: Sequence[Mapping[str, Any]], pad_id: int) -> dict[str, torch.Tensor]:
    """The rows of a batch as one rectangle: (B, L) ids, attention mask and, if they have them, token types."""
    length = max(len(row["ids"]) for row in batch)

    def rectangle(rows: Iterable[Sequence[int]], fill: int) -> torch.Tensor:
        return torch.tensor([[*map(int, row), *[fill] * (length - len(row))] for row in rows])

    inputs = {
        "input_ids": rectangle((row["ids"] for row in batch), pad_id),
        "attention_mask": rectangle(([1] * len(row["ids"]) for row in batch), 0),
    }
    if batch[0].get("segments") is not None:
        inputs["token_type_ids"] = rectangle((row["segments"] for row in batch), 0)
    return inputs


def losses_B(
    logits_BC: torch.Tensor,
    batch: Sequence[Mapping[str, Any]],
    kind: str,
    smoothing: float = 0.0,
    positive: Sequence[float] | None = None,
) -> torch.Tensor:
    """One loss a row: cross-entropy, binary cross-entropy averaged over the labels, or squared error."""
    targets = torch.as_tensor([row["target"] for row in batch])
    if kind == "single":
        surprise_BC = logits_BC.logsumexp(1, keepdim=True) - logits_BC
        right_B = surprise_BC.gather(1, targets.long()[:, None])[:, 0]
        return (1 - smoothing) * right_B + smoothing * surprise_BC.mean(1)
    targets = targets.to(logits_BC.dtype).reshape(logits_BC.shape)
    if kind == "multi":
        weights_BC = torch.ones_like(targets)
        if positive is not None:
            weights_BC = torch.where(targets > 0, torch.tensor(positive, dtype=targets.dtype), weights_BC)
        signed_BC = torch.where(targets > 0, logits_BC, -logits_BC)
        return (-weights_BC * F.logsigmoid(signed_BC)).mean(1)
    return (logits_BC - targets).square().mean(1)


def language_loss(logits_BLV: torch.Tensor, batch: Sequence[Mapping[str, Any]]) -> torch.Tensor:
    """Cross-entropy of every token that is to be predicted (`targets`: position -> token id), times its weight
    (`weights`; by default 1), over the sum of these.
    """
    found = [
        (F.cross_entropy(logits_LV[place], torch.tensor(token)), row.get("weights", {}).get(place, 1.0))
        for logits_LV, row in zip(logits_BLV, batch, strict=True)
        for place, token in row["targets"].items()
    ]
    return torch.stack([loss * weight for loss, weight in found]).sum() / sum(weight for _, weight in found)


def translation_loss(
    model: nn.Module, batch: Sequence[Mapping[str, Any]], pad_id: int, smoothing: float = 0.0
) -> torch.Tensor:
    """Cross-entropy of every token of every target (`labels`, -100: none), over their number; transformers shifts."""
    length = max(len(row["labels"]) for row in batch)
    labels_BL = torch.tensor([[*row["labels"], *[-100] * (length - len(row["labels"]))] for row in batch])
    logits_BLV = model(**padded(batch, pad_id), labels=labels_BL).logits
    losses = F.cross_entropy(
        logits_BLV.flatten(0, 1), labels_BL.flatten(), reduction="sum", label_smoothing=smoothing
    )
    return losses / (labels_BL != -100).sum()


def answers_logp(model: nn.Module, batch: Sequence[Mapping[str, Any]], side: str) -> torch.Tensor:
    """log p(answer | prompt) of every row (B,): one padded rectangle, then token by token, added up in fp64.

    In fp32 the sum alone would be wrong by more than what is compared with it.
    """
    rows = [{"ids": [*row["prompt"], *row[side]]} for row in batch]
    logp_BLV = model(**padded(rows, 0)).logits.double().log_softmax(-1)
    sums = []
    for logp_LV, row in zip(logp_BLV, batch, strict=True):
        first = len(row["prompt"]) - 1
        sums.append(
            torch.stack([logp_LV[first + place, token] for place, token in enumerate(row[side])]).sum()
        )
    return torch.stack(sums)


def preference_loss(
    model: nn.Module,
    batch: Sequence[Mapping[str, Any]],
    start: nn.Module,
    beta: float = 0.1,
    name: str = "dpo",
    smoothing: float = 0.0,
    means: bool = False,
    gamma: float = 1.0,
    centring: float = 0.0,
) -> torch.Tensor:
    """Rafailov et al. 2023, equation 7 (with Mitchell's smoothing); Azar et al. 2023, equation 17; Meng et al. 2024,
    equation 6; Hong et al. 2024, equation 6, of means over pairs or (`orpo_tokens`) over tokens; of one output
    Touvron et al. 2023, equation 2, and Eisenstein et al. 2023, equation 3 (`reward`): mean over pairs.

    The reference is the model `start`, asked anew for every batch.
    """
    sides = ("chosen", "rejected")
    if name == "reward":
        rows = [[{"ids": [*row["prompt"], *row[side]]} for row in batch] for side in sides]
        r_w, r_l = (model(**padded(own, 0)).logits[:, 0].double() for own in rows)
        margins = torch.tensor([row["margin"] for row in batch], dtype=torch.float64)
        return (-F.logsigmoid(r_w - r_l - margins) + centring * (r_w + r_l) ** 2).mean()
    held = [answers_logp(model, batch, side) for side in sides]
    lengths = [torch.tensor([len(row[side]) for row in batch], dtype=torch.float64) for side in sides]
    if name in ("dpo", "ipo"):
        held = [
            mine - answers_logp(start, batch, side).detach() for mine, side in zip(held, sides, strict=True)
        ]
    if means:
        held = [logp / count for logp, count in zip(held, lengths, strict=True)]
    h = held[0] - held[1]
    if name == "ipo":
        losses = (h - 1 / (2 * beta)) ** 2
    elif name.startswith("orpo"):
        odds_w, odds_l = (torch.log(torch.exp(logp) / (1 - torch.exp(logp))) for logp in held)
        nll = -held[0].mean() if name == "orpo" else -(held[0] * lengths[0]).sum() / lengths[0].sum()
        return nll - beta * F.logsigmoid(odds_w - odds_l).mean()
    else:
        h = beta * h - (gamma if name == "simpo" else 0.0)
        losses = -(1 - smoothing) * F.logsigmoid(h) - smoothing * F.logsigmoid(-h)
    return losses.sum() / len(batch)


def span_loss(model: nn.Module, batch: Sequence[Mapping[str, Any]]) -> torch.Tensor:
    """Mean over questions of the mean over windows of transformers' own loss of a question-answering head.

    Rows have `windows`: ids, segments, and the positions of the answer's first and last token. Each runs alone: the head
    would take padding for places of an answer.
    """
    losses = []
    for row in batch:
        own = [
            model(
                **_inputs([window], 0, next(model.parameters()).dtype),
                start_positions=torch.tensor([window["start"]]),
                end_positions=torch.tensor([window["end"]]),
            ).loss
            for window in row["windows"]
        ]
        losses.append(torch.stack(own).sum() / len(own))
    return torch.stack(losses).sum() / len(batch)


def contact_loss(
    model: nn.Module, batch: Sequence[Mapping[str, Any]], pad_id: int, distance: float, separation: int
) -> torch.Tensor:
    """Binary cross-entropy of every pair of known letters of each sequence, pair by pair in complex numbers, over all
    these pairs.

    Rows have `ids` (a mark, a token a letter, a mark) and `points`, a place a letter or None; or `pairs`, sets of two
    letters.
    """
    outputs_BLC = model(**_inputs(batch, pad_id, next(model.parameters()).dtype)).logits.double()
    total, count = outputs_BLC.new_zeros(()), 0
    for row, outputs_LC in zip(batch, outputs_BLC, strict=True):
        letters = len(row["ids"]) - 2
        channels = outputs_LC.shape[1] // 4
        a_re, a_im, b_re, b_im = outputs_LC[1 : 1 + letters].split(channels, dim=1)
        a, b = torch.complex(a_re, a_im), torch.complex(b_re, b_im)
        waves = torch.tensor([1000.0 ** (-k / channels) for k in range(channels)], dtype=torch.float64)
        for i in range(letters):
            for j in range(i + separation, letters):
                if "points" in row:
                    if row["points"][i] is None or row["points"][j] is None:
                        continue
                    touch = math.dist(row["points"][i], row["points"][j]) < distance
                else:
                    touch = {i, j} in row["pairs"]
                turn = torch.polar(torch.ones_like(waves), waves * (j - i))
                score = (a[i] * b[j].conj() * turn).real.sum() / math.sqrt(channels) - 3
                total = total - F.logsigmoid(score if touch else -score)
                count += 1
    return total / count


def detection_loss(model: nn.Module, batch: Sequence[Mapping[str, Any]]) -> torch.Tensor:
    """transformers' own loss of boxes, of all images at once: rows have a `picture` (C, H, W), `classes` (n,), `boxes`
    (n, 4), each its centre, width and height as fractions.
    """
    dtype = next(model.parameters()).dtype
    labels = [
        {
            "class_labels": torch.tensor(row["classes"], dtype=torch.int64),
            "boxes": torch.tensor(row["boxes"], dtype=torch.float64).reshape(-1, 4).to(dtype),
        }
        for row in batch
    ]
    before = torch.get_default_dtype()
    try:
        torch.set_default_dtype(dtype)  # it makes its class weights in this format
        return model(
            pixel_values=torch.stack([row["picture"] for row in batch]).to(dtype), labels=labels
        ).loss
    finally:
        torch.set_default_dtype(before)


def rank_loss(model: nn.Module, batch: Sequence[Mapping[str, Any]], pad_id: int, name: str) -> torch.Tensor:
    """Of queries with `candidates` (rows) and `relevance`: Cao et al. 2007, equation 6 with labels as they are; Burges et
    al. 2005, equation 3, a mean over the pairs of each query; or cross-entropy of every candidate.
    """
    rows = [candidate for query in batch for candidate in query["candidates"]]
    scores = iter(model(**padded(rows, pad_id)).logits[:, 0].double())
    found = []
    for query in batch:
        s = torch.stack([next(scores) for _ in query["candidates"]])
        y = torch.tensor(query["relevance"], dtype=torch.float64)
        if name == "pointwise":
            found += [
                -(one * F.logsigmoid(score) + (1 - one) * F.logsigmoid(-score))
                for one, score in zip(y, s, strict=True)
            ]
        elif name == "listwise" and y.sum() > 0:
            found.append(-(y / y.sum() * (s - s.logsumexp(0))).sum())
        elif name == "pairwise":
            both = list(zip(s, y, strict=True))
            pairs = [-F.logsigmoid(a - b) for a, p in both for b, q in both if p > q]
            found += [torch.stack(pairs).mean()] if pairs else []
    return torch.stack(found).mean()


def splitmix(state: int) -> int:
    """The published mixing function, on Python's integers."""
    z = (state + 0x9E3779B97F4A7C15) % 2**64
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 % 2**64
    z = (z ^ z >> 27) * 0x94D049BB133111EB % 2**64
    return z ^ z >> 31


def masked(
    ids: Sequence[int],
    special: Iterable[int],
    *,
    key: tuple[int, int, int, int],
    vocabulary: int,
    mask_id: int,
    probability: float = 0.15,
    mask_share: float = 0.8,
    random_share: float = 0.1,
    words: Sequence[int] | None = None,
) -> dict[str, Any]:
    """BERT's masks for one row, token by token: `ids` as shown and `targets`, position -> true token.

    Args:
        ids: the true tokens.
        special: ids that are never chosen and never drawn.
        key: (seed, stream, epoch, sample).
        vocabulary: number of token ids.
        mask_id: the mask.
        probability: of being chosen.
        mask_share: of the chosen ones, shown as the mask.
        random_share: of the chosen ones, shown as another token.
        words: first position of each token's word; None: each token is a word.
    """
    state = 0
    for number in key:
        state = splitmix(state + number)
    gamma = 0x9E3779B97F4A7C15

    def draw(place: int, which: int) -> float:
        return (splitmix(state + (3 * place + which) * gamma) >> 11) / 2**53

    special = {*special, mask_id}
    places = [place for place, token in enumerate(ids) if token not in special]
    chances = {place: draw(words[place] if words else place, 0) for place in places}
    chosen = [place for place in places if chances[place] < probability]
    if places and not chosen:
        chosen = [place for place in places if chances[place] == min(chances.values())]
    ordinary = [token for token in range(vocabulary) if token not in special]
    shown = list(ids)
    for place in chosen:
        fate = draw(place, 1)
        if fate < mask_share:
            shown[place] = mask_id
        elif fate < mask_share + random_share:
            shown[place] = ordinary[int(draw(place, 2) * len(ordinary))]
    return {"ids": shown, "targets": {place: ids[place] for place in chosen}}


def picture(
    pixels: Sequence[Sequence[Sequence[int]]],
    *,
    mean: float = 0.5,
    deviation: float = 0.5,
    key: tuple[int, int, int, int] | None = None,
    flip: float = 0.0,
    crop: int = 0,
    erase: float = 0.0,
) -> torch.Tensor:
    """One image as the model sees it (C, H, W), float32: mirrored, shifted, normalised, and a rectangle erased.

    Args:
        pixels: (H, W, C) of 0 … 255, of the model's own size.
        mean: of pixels divided by 255, subtracted.
        deviation: divided by.
        key: (seed, stream, epoch, sample) of what is random; None: nothing is changed.
        flip: probability of mirroring.
        crop: most pixels that it is shifted by; what comes in is black.
        erase: probability of erasing a rectangle.
    """
    height, width, channels = len(pixels), len(pixels[0]), len(pixels[0][0])
    state = 0
    for number in key or ():
        state = splitmix(state + number)
    gamma = 0x9E3779B97F4A7C15

    def draw(which: int) -> float:
        return (splitmix(state + which * gamma) >> 11) / 2**53

    mirrored, down, right = False, 0, 0
    if key is not None:
        mirrored = draw(0) < flip
        down, right = (int(draw(which) * (2 * crop + 1)) - crop for which in (1, 2))
    seen = torch.zeros(channels, height, width, dtype=torch.float64)
    for y in range(height):
        for x in range(width):
            from_y, from_x = y - down, x - right
            if 0 <= from_y < height and 0 <= from_x < width:
                source = pixels[from_y][width - 1 - from_x if mirrored else from_x]
                seen[:, y, x] = torch.tensor(source, dtype=torch.float64) / 255
    shown = ((seen - mean) / deviation).float()
    if key is not None and draw(3) < erase:
        area = (0.02 + (0.33 - 0.02) * draw(4)) * height * width
        shape = math.exp(math.log(0.3) + (math.log(10 / 3) - math.log(0.3)) * draw(5))
        tall = min(max(int(math.sqrt(area * shape)), 1), height)
        wide = min(max(int(math.sqrt(area / shape)), 1), width)
        top, left = int(draw(6) * (height - tall + 1)), int(draw(7) * (width - wide + 1))
        shown[:, top : top + tall, left : left + wide] = 0
    return shown


def mixed_with(
    own: torch.Tensor,
    other: torch.Tensor,
    key: tuple[int, int, int, int],
    *,
    mixup: float = 0.0,
    cutmix: float = 0.0,
) -> tuple[torch.Tensor, float]:
    """An image (C, H, W) mixed with another one, or with a rectangle of it, number by number; and its own share.

    Args:
        own: as `picture` gives it.
        other: likewise, changed as its own key says.
        key: (seed, stream, epoch, sample) of `own`.
        mixup: alpha of the Beta distribution; 0: not.
        cutmix: likewise.
    """
    state = 0
    for number in key:
        state = splitmix(state + number)

    def draw(which: int) -> float:
        return (splitmix(state + which * 0x9E3779B97F4A7C15) >> 11) / 2**53

    def beta(alpha: float) -> float:
        for trial in range(64):
            x, y = (draw(64 + 2 * trial + side) ** (1 / alpha) for side in (0, 1))
            if 0 < x + y <= 1:
                return x / (x + y)
        return 0.5

    pasted = draw(9) < 0.5 if mixup and cutmix else bool(cutmix)
    if not pasted:
        share = beta(mixup)
        return (share * own.double() + (1 - share) * other.double()).float(), share
    found, area = own.clone(), 1 - beta(cutmix)
    sides = []
    for which, length in ((10, own.shape[1]), (11, own.shape[2])):
        half, middle = int(math.sqrt(area) * length) // 2, int(draw(which) * length)
        sides.append((max(middle - half, 0), min(middle + half, length)))
    (top, bottom), (left, right) = sides
    found[:, top:bottom, left:right] = other[:, top:bottom, left:right]
    return found, 1 - (bottom - top) * (right - left) / (own.shape[1] * own.shape[2])


def partner_of(key: tuple[int, int, int, int], samples: int) -> int:
    """Which of so many samples an image is mixed with."""
    state = 0
    for number in key:
        state = splitmix(state + number)
    return int((splitmix(state + 8 * 0x9E3779B97F4A7C15) >> 11) / 2**53 * samples)


def soft_loss(logits: torch.Tensor, batch: Sequence[Mapping[str, Any]]) -> torch.Tensor:
    """Cross-entropy with several weighed classes a row, over the sum of all these weights: `shares`, class -> weight."""
    total, weights = logits.new_zeros(()), 0.0
    for row, own in zip(batch, logits.log_softmax(-1), strict=True):
        for kind, weight in row["shares"]:
            total = total - weight * own[kind]
            weights += weight
    return total / weights


def things(
    boxes: Sequence[Sequence[float]],
    classes: Sequence[int],
    size: int,
    *,
    key: tuple[int, int, int, int] | None = None,
    flip: float = 0.0,
    crop: int = 0,
) -> tuple[list[int], list[list[float]]]:
    """Classes and boxes of an image as `picture` changes it, box by box; of a shifted one a quarter must be seen.

    Args:
        boxes: left, top, width, height in pixels.
        classes: of each.
        size: height and width.
        key: as of `picture`.
        flip: as of `picture`.
        crop: as of `picture`.
    """
    state = 0
    for number in key or ():
        state = splitmix(state + number)

    def draw(which: int) -> float:
        return (splitmix(state + which * 0x9E3779B97F4A7C15) >> 11) / 2**53

    mirrored, down, right = False, 0, 0
    if key is not None:
        mirrored = draw(0) < flip
        down, right = (int(draw(which) * (2 * crop + 1)) - crop for which in (1, 2))
    kept, found = [], []
    for kind, (left, top, width, height) in zip(classes, boxes, strict=True):
        if mirrored:
            left = size - left - width
        edges = [left + right, top + down, left + right + width, top + down + height]
        x0, y0, x1, y1 = (min(max(edge, 0), size) for edge in edges)
        if (x1 - x0) * (y1 - y0) < 0.25 * width * height:
            continue
        kept.append(kind)
        found.append([(x0 + x1) / 2 / size, (y0 + y1) / 2 / size, (x1 - x0) / size, (y1 - y0) / size])
    return kept, found


def noisy(
    pixels: Sequence[Sequence[Sequence[int]]], *, key: tuple[int, int, int, int], hidden: float, uniform: bool
) -> dict[str, Any]:
    """One image as a model of velocities sees it: `noisy` and `velocity` (C, H, W) float32, `time`, and `hides`.

    Args:
        pixels: (H, W, C) of 0 … 255; mean and deviation are 0.5.
        key: (seed, stream, epoch, sample).
        hidden: probability that the class is hidden.
        uniform: whether times are; else the logistic of a normal number.
    """
    state = 0
    for number in key:
        state = splitmix(state + number)

    def draw(which: int) -> float:
        return (splitmix(state + which * 0x9E3779B97F4A7C15) >> 11) / 2**53

    def normal(which: int) -> float:
        first, second = draw(2 * (which // 2)), draw(2 * (which // 2) + 1)
        turn = math.cos if which % 2 == 0 else math.sin
        return math.sqrt(-2 * math.log1p(-first)) * turn(2 * math.pi * second)

    time = draw(0) if uniform else 1 / (1 + math.exp(-normal(0)))
    channels, height, width = len(pixels[0][0]), len(pixels), len(pixels[0])
    shown, velocity = torch.zeros(2, channels, height, width, dtype=torch.float64)
    for place in range(channels * height * width):
        channel, rest = divmod(place, height * width)
        y, x = divmod(rest, width)
        value = float(torch.tensor((pixels[y][x][channel] / 255 - 0.5) / 0.5, dtype=torch.float32))
        noise = normal(4 + place)
        shown[channel, y, x] = (1 - time) * noise + time * value
        velocity[channel, y, x] = value - noise
    return {"noisy": shown.float(), "velocity": velocity.float(), "time": time, "hides": draw(2) < hidden}


def velocity_loss(model: nn.Module, batch: Sequence[Mapping[str, Any]]) -> torch.Tensor:
    """Mean over images of the mean squared error of their velocities; rows are as of `noisy`, with `class`."""
    dtype = next(model.parameters()).dtype
    images, wanted = (torch.stack([row[name] for row in batch]).to(dtype) for name in ("noisy", "velocity"))
    times = torch.tensor([row["time"] for row in batch], dtype=torch.float32).to(dtype)
    found = model(
        pixel_values=images, times=times, labels=torch.tensor([row["class"] for row in batch])
    ).logits
    return (found.reshape(wanted.shape) - wanted).square().mean((1, 2, 3)).sum() / len(batch)


def decay_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Matrices decay; biases and the weights of norms (all one-dimensional) do not."""
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return [
        {
            "params": [parameter for parameter in trainable if parameter.ndim > 1],
            "weight_decay": weight_decay,
        },
        {"params": [parameter for parameter in trainable if parameter.ndim <= 1], "weight_decay": 0.0},
    ]


class TextbookSgd:
    """v = mu v + g + wd w; w = w - lr v. One tensor at a time."""

    def __init__(self, groups: list[dict[str, Any]], momentum: float = 0.9) -> None:
        self.param_groups, self.momentum = groups, momentum
        self.velocity: dict[nn.Parameter, torch.Tensor] = {}

    @torch.no_grad()
    def step(self) -> None:
        for group in self.param_groups:
            for w in group["params"]:
                v = self.momentum * self.velocity.get(w, torch.zeros_like(w))
                self.velocity[w] = v + w.grad + group["weight_decay"] * w
                w -= group["lr"] * self.velocity[w]


class TextbookLamb:
    """You et al. 2019, algorithm 2, debiased, phi(z) = z; vectors are not adapted. One tensor at a time."""

    def __init__(
        self, groups: list[dict[str, Any]], eps: float, betas: tuple[float, float] = (0.9, 0.999)
    ) -> None:
        self.param_groups, self.betas, self.eps, self.steps = groups, betas, eps, 0
        self.averages: dict[nn.Parameter, tuple[torch.Tensor, torch.Tensor]] = {}

    @torch.no_grad()
    def step(self) -> None:
        self.steps += 1
        first, second = self.betas
        for group in self.param_groups:
            for w in group["params"]:
                m, v = self.averages.get(w, (torch.zeros_like(w), torch.zeros_like(w)))
                m, v = first * m + (1 - first) * w.grad, second * v + (1 - second) * w.grad**2
                self.averages[w] = m, v
                m_hat, v_hat = m / (1 - first**self.steps), v / (1 - second**self.steps)
                u = m_hat / (v_hat.sqrt() + self.eps) + group["weight_decay"] * w
                ratio = float(w.norm() / u.norm()) if w.ndim > 1 and w.norm() > 0 and u.norm() > 0 else 1.0
                w -= group["lr"] * ratio * u


Loss = Callable[[], torch.Tensor]


def textbook_gradient(model: nn.Module, loss: Loss) -> torch.Tensor:
    """Plain backpropagation."""
    value = loss()
    value.backward()
    return value


def textbook_sam(model: nn.Module, loss: Loss, rho: float = 0.05, adaptive: bool = False) -> torch.Tensor:
    """Foret et al. 2021, algorithm 1; adaptive: Kwon et al. 2021, T = |w| + 0.01. One flat vector."""
    weights = [parameter for parameter in model.parameters() if parameter.requires_grad]
    value = loss()
    gradients = torch.autograd.grad(value, weights, allow_unused=True)
    moved = [(w, g) for w, g in zip(weights, gradients, strict=True) if g is not None]
    w = torch.cat([weight.detach().flatten() for weight, _ in moved])
    g = torch.cat([gradient.flatten() for _, gradient in moved])
    t = w.abs() + 0.01 if adaptive else torch.ones_like(w)
    e = rho * t * t * g / (t * g).norm()
    nn.utils.vector_to_parameters(w + e, [weight for weight, _ in moved])
    loss().backward()
    nn.utils.vector_to_parameters(w, [weight for weight, _ in moved])
    return value


def textbook_fgm(model: nn.Module, loss: Loss, epsilon: float = 1.0, share: float = 0.5) -> torch.Tensor:
    """Miyato et al. 2017, sample by sample: one whole padded batch, tokens moved by a hook."""
    seen: list[torch.Tensor] = []
    embedding: Any = model.get_input_embeddings()  # type: ignore[operator]

    def watch(_module: nn.Module, _args: Any, embedded: torch.Tensor) -> torch.Tensor:
        seen.append(embedded.detach().requires_grad_())
        return seen[0]

    handle = embedding.register_forward_hook(watch)
    (gradient_BLD,) = torch.autograd.grad(loss(), seen)
    handle.remove()
    moves = [epsilon * g / g.norm() if g.norm() > 0 else torch.zeros_like(g) for g in gradient_BLD]
    clean = loss()
    handle = embedding.register_forward_hook(lambda _module, _args, embedded: embedded + torch.stack(moves))
    ((1 - share) * clean + share * loss()).backward()
    handle.remove()
    return clean


def _inputs(batch: Sequence[Mapping[str, Any]], pad_id: int, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Of the whole batch: its images, or its tokens as one rectangle."""
    if "picture" in batch[0]:
        return {"pixel_values": torch.stack([row["picture"] for row in batch]).to(dtype)}
    return padded(batch, pad_id)


def reference_updates(
    model: nn.Module,
    batches: Sequence[Sequence[Mapping[str, Any]]],
    *,
    kind: str,
    pad_id: int,
    lrs: Sequence[float],
    clip: float | None = None,
    weight_decay: float = 0.0,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    pools: str = "first",
    label_smoothing: float = 0.0,
    positive: Sequence[float] | None = None,
    preference: Mapping[str, Any] | None = None,
    contact: Mapping[str, Any] | None = None,
    rank: Mapping[str, Any] | None = None,
    optimizer: Callable[[list[dict[str, Any]]], Any] | None = None,
    gradient: Callable[[nn.Module, Callable[[], torch.Tensor]], torch.Tensor] | None = None,
    on_gradient: Callable[[int, dict[str, torch.Tensor]], None] | None = None,
) -> list[tuple[float, float]]:
    """Train `model` in place, one update a batch; returns (loss, gradient norm before clipping) of each.

    Args:
        model: a transformers sequence classifier, in the dtype to compute in, dropout 0.
        batches: rows with `ids` (or a `picture`, (C, H, W)), `target`, optional `segments`, optional `weight` (sample
            times class weight).
        kind: `single`, `multi`, `regression`, `language` (rows have `targets`, not `target`), `seq2seq` (`labels`) or
            `prefer` (token ids: `prompt`, `chosen`, `rejected`), `span` (`windows`), `contact` (`points`), `boxes`
            (`detection_loss`), `mixed` (`soft_loss`) or `rank` (`candidates`, `relevance`).
        pad_id: the token that fills the rectangle; never a real token of a row.
        lrs: the learning rate of each update.
        clip: largest L2 norm of the whole gradient; None does not clip.
        label_smoothing: share of the target that is spread evenly over all classes.
        preference: further arguments of `preference_loss`.
        contact: further arguments of `contact_loss`.
        rank: further arguments of `rank_loss`.
        positive: of several labels, the weight of each where it applies.
        optimizer: makes the optimiser from its groups; None is AdamW.
        gradient: of the model by the loss of a batch, left in `.grad`; returns that loss. None is the plain one.
        on_gradient: called with each update's number, from 0, and its gradient by parameter name, before clipping.
        pools: `last` for models that read the last real token and find it by `config.pad_token_id`.
    """
    assert pools == "first" or model.config.pad_token_id == pad_id
    groups = decay_groups(model, weight_decay)
    if optimizer is None:
        stepper: Any = torch.optim.AdamW(groups, lr=lrs[0], betas=betas, eps=eps, foreach=False, fused=False)
    else:
        stepper = optimizer(groups)
    figures = []
    for number, (batch, lr) in enumerate(zip(batches, lrs, strict=True)):

        def loss_of_batch(batch: Sequence[Mapping[str, Any]] = batch) -> torch.Tensor:
            if kind == "seq2seq":
                return translation_loss(model, batch, pad_id, label_smoothing)
            if kind == "prefer":
                return preference_loss(model, batch, **(preference or {}))
            if kind == "contact":
                return contact_loss(model, batch, pad_id, **(contact or {}))
            if kind == "velocity":
                return velocity_loss(model, batch)
            if kind == "rank":
                return rank_loss(model, batch, pad_id, **(rank or {}))
            if kind == "span":
                return span_loss(model, batch)
            if kind == "boxes":
                return detection_loss(model, batch)
            logits = model(**_inputs(batch, pad_id, next(model.parameters()).dtype)).logits
            if kind == "language":
                return language_loss(logits, batch)
            if kind == "mixed":
                return soft_loss(logits, batch)
            weights = torch.tensor([row.get("weight", 1.0) for row in batch], dtype=logits.dtype)
            return (losses_B(logits, batch, kind, label_smoothing, positive) * weights).sum() / weights.sum()

        model.zero_grad()
        loss = (gradient or textbook_gradient)(model, loss_of_batch)
        if on_gradient is not None:
            named = model.named_parameters()
            on_gradient(number, {name: p.grad.clone() for name, p in named if p.grad is not None})
        norm = nn.utils.clip_grad_norm_(model.parameters(), float("inf") if clip is None else clip)
        for group in stepper.param_groups:
            group["lr"] = lr
        stepper.step()
        figures.append((float(loss.detach()), float(norm)))
    return figures
