"""Hugging Face's Trainer, as a newcomer runs it (`hf-default`) and at its best (`hf-best`)."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bigbatch.study.contestants.common import (
    Clock,
    by_length,
    predicted,
    read_rows,
    run_contestant,
    texts_of,
    tokenised,
    with_details,
)
from bigbatch.study.jobs import Job, Outcome

if TYPE_CHECKING:
    pass


PREDICT_BATCH = 32
"""Texts a newcomer predicts at once."""


def compete(variant: str, job: Job) -> Outcome:
    """Train and predict; or only find the fastest number of samples a device takes at once."""
    import torch
    from transformers import AutoTokenizer

    torch.set_num_threads(job.threads)
    rows = read_rows(job)
    tokenizer = AutoTokenizer.from_pretrained(job.model)
    examples = tokenised(job, tokenizer, rows)
    lengths = [len(example["input_ids"]) for example in examples]
    best = variant == "hf-best"
    if job.trial:
        return _trial(job, examples, lengths, tokenizer)
    order = grouped_order(job, lengths) if best else job.order
    clock = Clock(job)
    trainer = build_trainer(job, examples, order, tokenizer, clock, best=best)
    trainer.train()
    first = next((entry for entry in trainer.state.log_history if "grad_norm" in entry), {})
    timing = None
    if job.kind == "classify":
        timing = predicted(job, rows, lambda asked: _predict(trainer, job, tokenizer, asked, best))
    outcome = clock.outcome(lengths, loss=first.get("loss"), grad_norm=first.get("grad_norm"), timing=timing)
    return with_details(outcome, micro_samples=job.micro_samples, optim=str(trainer.args.optim.value))


def grouped_order(job: Job, lengths: Sequence[int]) -> tuple[int, ...]:
    """What `train_sampling_strategy="group_by_length"` makes of the job's samples.

    The warm-up updates are grouped each for itself and the counted ones together, as in one of the Trainer's
    mega-batches, so that what is counted is the same samples as for everybody else.
    """
    import torch
    from transformers.trainer_pt_utils import get_length_grouped_indices

    generator = torch.Generator().manual_seed(job.seed)
    batch = job.batch_samples
    warm = [job.order[first : first + batch] for first in range(0, job.warmup_updates * batch, batch)]
    ordered: list[int] = []
    for stretch in [*warm, job.counted_order]:
        own = [lengths[row] for row in stretch]
        found = get_length_grouped_indices(own, batch, len(stretch) // batch, generator)
        ordered += [stretch[index] for index in found]
    return tuple(ordered)


def build_trainer(
    job: Job,
    examples: Any,
    order: Sequence[int],
    tokenizer: Any,
    clock: Clock,
    *,
    best: bool,
) -> Any:
    """A Trainer over exactly these samples in this order.

    Args:
        job: the recipe's side.
        examples: tokenised rows.
        order: which of them, `batch_samples` an update.
        tokenizer: pads.
        clock: told the end of each update.
        best: with what makes the Trainer fast and its numbers right.
    """
    from transformers import (
        DataCollatorForLanguageModeling,
        DataCollatorWithPadding,
        PrinterCallback,
        Trainer,
        TrainerCallback,
        TrainingArguments,
    )

    class Watch(TrainerCallback):
        def on_step_end(self, *_: object, **__: object) -> None:
            clock.update_ended()

    class InOrder(Trainer):
        def _get_train_sampler(self, train_dataset: object = None) -> list[int]:
            return list(order)

    arguments = TrainingArguments(
        output_dir=str(Path(job.folder) / "trainer"),
        per_device_train_batch_size=job.micro_samples,
        per_device_eval_batch_size=job.micro_samples if best else PREDICT_BATCH,
        gradient_accumulation_steps=job.batch_samples // job.micro_samples,
        max_steps=len(order) // job.batch_samples,
        learning_rate=job.lr,
        adam_beta1=job.betas[0],
        adam_beta2=job.betas[1],
        adam_epsilon=job.eps,
        weight_decay=job.weight_decay,
        max_grad_norm=job.clip or 0.0,
        lr_scheduler_type="constant",
        logging_first_step=True,
        save_strategy="no",
        eval_strategy="no",
        report_to=[],
        disable_tqdm=True,
        use_cpu=job.device == "cpu",
        dataloader_pin_memory=job.device != "cpu",
        bf16=job.precision == "bf16",
        torch_compile=job.compile and best,
        seed=job.seed,
    )
    model = load_model(job)
    clm = job.kind == "clm"
    if best and not clm:
        # Without it the Trainer leaves the division by the accumulation steps to BERT, which does not divide.
        # Causal language models do divide, by the predicted tokens of the whole batch.
        model.accepts_loss_kwargs = False
    trainer = InOrder(
        model=model,
        args=arguments,
        train_dataset=examples,
        data_collator=DataCollatorForLanguageModeling(tokenizer, mlm=False)
        if clm
        else DataCollatorWithPadding(tokenizer),
        processing_class=tokenizer,
        callbacks=[Watch()],
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def load_model(job: Job) -> Any:
    """The job's model, fp32 weights, as transformers loads it."""
    import torch
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    kind = AutoModelForCausalLM if job.kind == "clm" else AutoModelForSequenceClassification
    return kind.from_pretrained(job.model, dtype=torch.float32)


def _predict(
    trainer: Any,
    job: Job,
    tokenizer: Any,
    asked: Sequence[dict[str, str]],
    best: bool,
) -> list[dict[str, float]]:
    """Texts -> probabilities by label, in the order of the texts."""
    import torch

    found = tokenizer(*texts_of(asked), truncation=True, max_length=job.max_length)
    examples = [{name: values[index] for name, values in found.items()} for index in range(len(asked))]
    lengths = [len(example["input_ids"]) for example in examples]
    order = by_length(range(len(asked)), lengths) if best else list(range(len(asked)))
    logits = torch.from_numpy(trainer.predict([examples[index] for index in order]).predictions)
    shares = torch.softmax(logits, -1).tolist()
    described: list[dict[str, float]] = [{}] * len(asked)
    for index, own in zip(order, shares, strict=True):
        described[index] = dict(zip(job.labels, own, strict=True))
    return described


def _trial(job: Job, examples: Sequence[dict[str, Any]], lengths: Sequence[int], tokenizer: Any) -> Outcome:
    """Seconds of the same update with each number of samples at once, after one that warms up."""
    from dataclasses import replace

    seconds: dict[int, float] = {}
    for size in job.trial:
        trial = replace(job, warmup_updates=1, counted_updates=1, micro_samples=size)
        trial = replace(trial, order=job.order[: 2 * job.batch_samples])
        clock = Clock(trial)
        order = grouped_order(trial, lengths)
        try:
            build_trainer(trial, examples, order, tokenizer, clock, best=True).train()
        except (RuntimeError, MemoryError) as error:
            if not _is_memory_error(error):
                raise
            break  # larger ones do not fit either
        seconds[size] = clock.ends[1] - clock.ends[0]
    fastest = min(seconds, key=seconds.__getitem__)
    return Outcome(details={"micro_samples": fastest, "trial_seconds": seconds, "at": time.time()})


def _is_memory_error(error: BaseException) -> bool:
    from bigbatch.parallel.agree import is_memory_error

    return is_memory_error(error)


if __name__ == "__main__":
    run_contestant(compete)
