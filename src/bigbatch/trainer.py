"""The door for those who come from Hugging Face's Trainer: its arguments in, a run of this project out.

::

    from bigbatch import Trainer        # instead of: from transformers import Trainer

Nothing of it computes: `train` is `bigbatch.train`, and what it cannot do it refuses when it is made, with what to use
instead. What the numbers are here and there: docs/from-huggingface.md.
"""

from __future__ import annotations

import os
import signal
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np

from bigbatch.api import trained
from bigbatch.arguments import by_place, refuse_callbacks, task_and_columns
from bigbatch.commands import read
from bigbatch.errors import UsageError
from bigbatch.frames import said_plainly
from bigbatch.written import as_named, copy_files


class TrainOutput(NamedTuple):
    """What `Trainer.train` gives."""

    global_step: int
    """Updates."""
    training_loss: float
    """Mean of the updates' losses."""
    metrics: dict[str, float]
    """`train_runtime` (seconds), `train_samples_per_second`, `train_loss`."""


class PredictionOutput(NamedTuple):
    """What `Trainer.predict` gives."""

    predictions: np.ndarray
    """Logits, float32: (rows, C), or (rows, words, C) of tags, filled up with -100."""
    label_ids: np.ndarray | None
    """None for rows without labels."""
    metrics: dict[str, float]


_INSTEAD = {
    "compute_loss_func": "bigbatch.train(…, loss=function of logits and targets, one value a unit)",
    "preprocess_logits_for_metrics": "compute_metrics alone: it is given the logits",
    "optimizer_cls_and_kwargs": 'bigbatch.train(…, set={"optimizer.name": …})',
    "optimizers": 'bigbatch.train(…, set={"optimizer.name": …, "schedule.name": …})',
    "evaluator": "eval_dataset: recall@k, mrr and ndcg of its pairs are reported",
    "compute_loss": "bigbatch.train(…, loss=function of logits and targets, one value a unit)",
    "training_step": "bigbatch.start(…), whose records you may iterate over",
    "create_optimizer": 'bigbatch.train(…, set={"optimizer.name": …})',
    "create_scheduler": 'bigbatch.train(…, set={"schedule.name": …})',
    "create_optimizer_and_scheduler": 'bigbatch.train(…, set={"optimizer.name": …, "schedule.name": …})',
    "get_train_dataloader": "the dataset itself: rows are cut into batches here",
    "get_eval_dataloader": "the dataset itself: rows are cut into batches here",
    "evaluation_loop": "compute_metrics",
    "prediction_step": "compute_metrics",
    "log": "bigbatch.train(…, observers=[function of a record])",
}
"""What another loop would call, and what does its work here."""


class Trainer:
    """Hugging Face's Trainer, as far as its tutorials use it.

    Example:
        ::

            trainer = bigbatch.Trainer(model=model, args=args, train_dataset=rows, eval_dataset=held_out,
                                       processing_class=tokenizer, data_collator=collator)
            trainer.train()
            trainer.evaluate()
    """

    def __init_subclass__(cls, **options: Any) -> None:
        """Refuse methods that only another loop would call."""
        super().__init_subclass__(**options)
        for name in _INSTEAD:
            if name in vars(cls):
                raise UsageError(f"{cls.__name__}.{name} is never called here; instead: {_INSTEAD[name]}")

    @said_plainly
    def __init__(
        self,
        model: Any = None,
        args: Any = None,
        data_collator: Any = None,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        processing_class: Any = None,
        model_init: Callable[[], Any] | None = None,
        compute_loss_func: Any = None,
        compute_metrics: Callable[..., Any] | None = None,
        callbacks: Any = None,
        optimizers: Any = (None, None),
        optimizer_cls_and_kwargs: Any = None,
        preprocess_logits_for_metrics: Any = None,
        *,
        tokenizer: Any = None,
        loss: Any = None,
        evaluator: Any = None,
        quiet: bool = False,
    ) -> None:
        """Take what the Trainer takes.

        Args:
            model: a live model with a head; one without (or a `SentenceTransformer`) is trained to match texts.
            args: `TrainingArguments`; None: its defaults, in `tmp_trainer`.
            data_collator: one of the usual ones: what it masks is masked here, padding there is none.
            train_dataset: whatever `bigbatch.train` takes: rows of token ids, or of text.
            eval_dataset: the same, or several by name.
            processing_class: the tokenizer.
            model_init: gives the model, where `model` does not.
            compute_loss_func: refused.
            compute_metrics: a function of `EvalPrediction` that names figures.
            callbacks: refused.
            optimizers: refused.
            optimizer_cls_and_kwargs: refused.
            preprocess_logits_for_metrics: refused.
            tokenizer: the older name of `processing_class`.
            loss: of sentence-transformers, for pairs and triplets: the ranking losses.
            evaluator: refused.
            quiet: print nothing.

        Raises:
            UsageError: what is not done here, with what to use instead.
        """
        refuse_callbacks(callbacks)
        _refuse(
            compute_loss_func=compute_loss_func,
            preprocess_logits_for_metrics=preprocess_logits_for_metrics,
            optimizer_cls_and_kwargs=optimizer_cls_and_kwargs,
            optimizers=None if optimizers is None or not any(optimizers) else optimizers,
            evaluator=evaluator,
        )
        if model is None and model_init is not None:
            model = model_init()
        if model is None:
            raise UsageError("Trainer: no model; pass model=")
        self.args = args if args is not None else SimpleNamespace(**_DEFAULTS)
        self.model = model
        self.data_collator = data_collator
        self.train_dataset, self.eval_dataset = train_dataset, eval_dataset
        self.processing_class = processing_class or tokenizer or getattr(data_collator, "tokenizer", None)
        self.compute_metrics = compute_metrics
        self.task, self._columns = task_and_columns(
            model,
            data_collator,
            train_dataset if train_dataset is not None else eval_dataset,
            loss,
            self.args,
        )
        self.run: Any = None
        """The run, once trained: its records, plan, figures."""
        self._quiet = quiet

    # ------------------------------------------------------------ training

    @said_plainly
    def train(self, resume_from_checkpoint: bool | str | os.PathLike[str] | None = None) -> TrainOutput:
        """Train; the same script goes on with a run that was interrupted, as far as the model's weights are the same.

        Args:
            resume_from_checkpoint: True insists on going on, whatever weights the model has now.

        Raises:
            BigbatchError: see `bigbatch.errors`.
            KeyboardInterrupt: after Ctrl-C, once everything is saved: the rest of a script is not for half a model.
        """
        if self.train_dataset is None:
            raise UsageError("Trainer.train: no train_dataset")
        asked = resume_from_checkpoint or getattr(self.args, "resume_from_checkpoint", None)
        self.run = trained(
            {
                **_TRAIN,
                "model_or_recipe": self.model,
                "train_dataset": by_place(self.train_dataset, self._columns),
                "val_dataset": by_place(self.eval_dataset, self._columns),
                "task": self.task,
                "columns": self._columns,
                "tokenizer": self.processing_class,
                "args": self.args,
                "compute_metrics": self.compute_metrics,
                "resume": _resumes(asked, Path(self.args.output_dir)),
                "quiet": self._quiet,
            }
        )
        if self.run.signal == signal.SIGINT:
            raise KeyboardInterrupt
        return _output(self.run.path)

    @property
    def state(self) -> SimpleNamespace:
        """`global_step`, `max_steps`, `best_metric`, and `log_history`: a dictionary an update and evaluation."""
        return SimpleNamespace(**_state(None if self.run is None else self.run.path))

    # ------------------------------------------------------------ answers

    @said_plainly
    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: Any = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Loss and figures of the model as it is, on the evaluation data or on others.

        Args:
            eval_dataset: other rows, or several data sets by name; None: those of the constructor.
            ignore_keys: without a meaning here: outputs of the model beside its logits are not collected.
            metric_key_prefix: in front of the names of figures: `eval_loss`.

        Returns:
            `<prefix>_loss`, the figures, and what the speed was; for several data sets `<prefix>_<name>_loss`.
        """
        del ignore_keys
        data = self.eval_dataset if eval_dataset is None else eval_dataset
        if data is None:
            raise UsageError("Trainer.evaluate: no eval_dataset")
        from bigbatch.build.inputs import is_dataset

        if isinstance(data, Mapping) and all(map(is_dataset, data.values())):
            parts = [self.evaluate(each, None, f"{metric_key_prefix}_{name}") for name, each in data.items()]
            return {key: value for part in parts for key, value in part.items()}
        return self._answered(data, metric_key_prefix).metrics

    @said_plainly
    def predict(
        self, test_dataset: Any, ignore_keys: Any = None, metric_key_prefix: str = "test"
    ) -> PredictionOutput:
        """Logits of every row, in order; labels and figures where the rows have labels.

        Args:
            test_dataset: the rows.
            ignore_keys: without a meaning here.
            metric_key_prefix: in front of the names of figures: `test_loss`.

        Raises:
            UsageError: the task's outputs are not logits of rows.
        """
        del ignore_keys
        from bigbatch.tasks.computed import why_no_logits

        why = why_no_logits(self._opened_task())
        if why:
            raise UsageError(f"Trainer.predict: {why}; trainer.run.predict(rows) says what the task predicts")
        return self._answered(test_dataset, metric_key_prefix, logits=True)

    def _answered(self, data: Any, prefix: str, *, logits: bool = False) -> PredictionOutput:
        from bigbatch.infer.logits import evaluate_live
        from bigbatch.model.sentence import is_sentence_model, sentence_model

        started = time.perf_counter()
        inner = sentence_model(self.model) if is_sentence_model(self.model) else None
        found = evaluate_live(
            self.model if inner is None else inner.module,
            self.processing_class if inner is None else self.processing_class or inner.tokenizer,
            self._opened_task(),
            by_place(data, self._columns),
            columns=self._columns,
            compute_metrics=self.compute_metrics,
            device="cpu" if getattr(self.args, "use_cpu", False) else None,
            logits=logits,
        )
        seconds = time.perf_counter() - started
        figures = {**found.figures, "runtime": seconds, "samples_per_second": found.samples / seconds}
        metrics = {f"{prefix}_{name}": value for name, value in figures.items()}
        return PredictionOutput(found.logits, found.labels, metrics)

    def _opened_task(self) -> Any:
        from bigbatch.tasks.catalog import build_task

        options = {name: value for name, value in self.task.items() if name != "name"}
        return build_task(self.task["name"], options, Path.cwd())

    # ------------------------------------------------------------ files

    @said_plainly
    def save_model(self, output_dir: str | os.PathLike[str] | None = None) -> None:
        """Write the model and its tokenizer as a Hugging Face folder; None: into `args.output_dir`."""
        from bigbatch.model.export import save_model

        folder = as_named(Path(self.args.output_dir if output_dir is None else output_dir).absolute())
        if self.run is not None and not self.run.leads:
            return
        kept = None if self.run is None else self.run.path / "model"
        with tempfile.TemporaryDirectory(prefix="bigbatch-model-") as passing:
            if kept is None or not kept.is_dir():
                kept = Path(passing) / "model"
                save_model(self.model, self.processing_class, kept, "")
            try:
                copy_files(kept, folder)
            except OSError as error:
                raise UsageError(f"save_model: {folder} cannot be written: {error.strerror}") from error

    @said_plainly
    def push_to_hub(self, *words: Any, **options: Any) -> None:
        """Refused, with the folder and the command that uploads it."""
        del words, options
        folder = self.args.output_dir if self.run is None else self.run.path / "model"
        name = getattr(self.args, "hub_model_id", None) or f"USER/{Path(self.args.output_dir).name}"
        raise UsageError(
            f"nothing is uploaded from here; the model is in {folder}: hf upload {name} {folder}"
        )

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(
            f"bigbatch.Trainer has no {name!r}: it has train, evaluate, predict, save_model, push_to_hub, model, args, "
            "state and, once trained, run (records, plan, figures; docs/from-huggingface.md)"
        )


_DEFAULTS: Mapping[str, Any] = {"output_dir": "tmp_trainer", "per_device_train_batch_size": 8}
"""What nobody said; the rest of the Trainer's defaults is `recipe.training_arguments`'s."""
_TRAIN: Mapping[str, Any] = {
    "epochs": None, "batch_size": None, "lr": None, "loss": None, "metrics": (), "observers": (), "set": {},
    "run_dir": None, "computation_eager": None, "callbacks": None,
}  # fmt: skip
"""Arguments of `bigbatch.train` that have no counterpart there."""


def _refuse(**given: Any) -> None:
    for name, value in given.items():
        if value is not None:
            raise UsageError(f"Trainer: {name} is for another loop than this one; instead: {_INSTEAD[name]}")


def _resumes(asked: Any, home: Path) -> bool | None:
    """Whether to insist on resuming; a path must lie in the directory of the run.

    Raises:
        UsageError: a checkpoint elsewhere.
    """
    if asked is None or isinstance(asked, bool):
        return asked or None
    place = Path(asked).resolve()
    if home.resolve() not in (place, *place.parents):
        raise UsageError(
            f"resume_from_checkpoint: {asked} is not in {home}; a run goes on from its own newest checkpoint: True"
        )
    return True


def _output(path: Path) -> TrainOutput:
    updates = read(path).updates
    losses = [loss for loss in updates["loss"].to_pylist() if loss is not None]
    seconds = sum(updates["seconds"].to_pylist())
    loss = float(np.mean(losses)) if losses else float("nan")
    metrics = {"train_runtime": seconds, "train_loss": loss}
    if seconds:
        metrics["train_samples_per_second"] = sum(updates["batch_samples"].to_pylist()) / seconds
    return TrainOutput(len(updates), loss, metrics)


def _state(path: Path | None) -> dict[str, Any]:
    """As the Trainer's state has it, out of the records of a run."""
    if path is None:
        return {"global_step": 0, "max_steps": 0, "best_metric": None, "log_history": []}
    found = read(path)
    updates = found.updates.select(["step", "loss", "grad_norm", "lr"]).to_pylist()
    log = [
        {
            "step": each["step"],
            "loss": each["loss"],
            "grad_norm": each["grad_norm"],
            "learning_rate": each["lr"],
        }
        for each in updates
    ]
    for each in found.evals:
        named = "" if each["split"] == "validation" else f"{str(each['split']).rpartition('.')[2]}_"
        skipped = ("kind", "time", "step", "split")
        log.append(
            {"step": each["step"]} | {f"eval_{named}{k}": v for k, v in each.items() if k not in skipped}
        )
    best = found.result.get("best")
    return {
        "global_step": len(updates),
        "max_steps": found.result.get("updates", len(updates)),
        "best_metric": best.get("value") if isinstance(best, Mapping) else None,
        "log_history": sorted(log, key=lambda each: each["step"]),
    }
