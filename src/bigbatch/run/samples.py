"""Which evaluations write texts, and the prompts that are continued at each of those: RUN/samples/step-000120.jsonl.

Greedily, so that what changes from one evaluation to the next is the model.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from bigbatch.build.parts import Parts
from bigbatch.errors import Problem, RecipeError
from bigbatch.infer.load import Loaded
from bigbatch.infer.prompts import Prompt, prompts_of, rows_of_prompts, why_it_writes_nothing
from bigbatch.infer.sampling import Decoding
from bigbatch.infer.texts import Text, in_order, written_texts
from bigbatch.infer.writers import json_line
from bigbatch.metrics.bleu import is_written
from bigbatch.parallel.agree import OutOfMemory, together
from bigbatch.protocols import World
from bigbatch.records import Event
from bigbatch.store.directory import RunDirectory
from bigbatch.tasks.ready import plain_runner
from bigbatch.written import make_folder, replace_text

MOST_PROMPTS = 200
_SHOWN = 80


class Texts:
    """The texts of a run's evaluations."""

    def __init__(self, parts: Parts, directory: RunDirectory, world: World) -> None:
        """Read the prompts.

        Args:
            parts: of the run.
            directory: where samples go.
            world: the ranks.

        Raises:
            RecipeError: a model that writes nothing, or too many prompts.
            DataError: prompts that the model cannot take, with their places.
        """
        self._parts, self._directory, self._world = parts, directory, world
        self.due = True
        """Whether the evaluation that is made now writes texts."""
        self._prompts = self._read() if parts.recipe.run.prompts is not None else []

    def wanted(self, evaluations: int, over: bool) -> bool:
        """Whether the next evaluation writes.

        Args:
            evaluations: that there were.
            over: whether it is the last one.
        """
        every = self._parts.recipe.run.generate_every
        return over or (every.unit == "evaluations" and (evaluations + 1) % max(1, round(every.amount)) == 0)

    @property
    def late(self) -> bool:
        """Whether the last evaluation left something unwritten."""
        return not self.due and (bool(self._prompts) or any(map(is_written, self._parts.metrics)))

    def samples(self, step: int) -> Iterator[Event]:
        """Continue the prompts, if that is due; every rank calls it, and rank 0 writes the file.

        Args:
            step: updates so far.
        """
        if not (self.due and self._prompts):
            return
        name = f"samples/step-{step:06d}.jsonl"
        try:
            found = together(self._world, self._written)
        except OutOfMemory as error:
            why = str(error).partition("\n")[0]
            yield Event(step=step, event="samples", why=why, did="no prompt was continued")
            return
        if self._directory.writes:
            make_folder(self._directory.samples)
            lines = [json_line({**prompt.told, **text.record}) for prompt, text in found]
            replace_text(self._directory.path / name, "".join(lines))
        shown = " ".join(found[0][1].text.split())[:_SHOWN] if found else ""
        yield Event(step=step, event="samples", why=shown, did=f"{len(self._prompts):,} texts: {name}")

    def _written(self) -> Sequence[tuple[Prompt, Text]]:
        # The parts of a divided model run on all ranks, or not at all.
        if not (self._world.divides or self._directory.writes):
            return []
        how = Decoding(max_tokens=self._parts.recipe.run.prompt_tokens)
        return list(in_order(written_texts(self._opened(), self._prompts, how)))

    def _opened(self) -> Loaded:
        parts = self._parts
        return Loaded(
            module=parts.module,
            tokenizer=parts.model.tokenizer,
            task=parts.task,
            forward=plain_runner(parts.model),
            max_length=parts.model.max_length,
            positions=parts.model.anatomy.max_positions,
            columns=parts.recipe.data.columns,
            recipe=parts.recipe,
            micro_tokens=parts.evaluation_micro_tokens,
        )

    def _read(self) -> list[Prompt]:
        recipe = self._parts.recipe
        assert recipe.run.prompts is not None
        path = recipe.resolve_path(recipe.run.prompts)
        why = why_it_writes_nothing(self._parts.task)
        opened = self._opened()
        found = [] if why else prompts_of(rows_of_prompts(path, opened), opened)
        if len(found) > MOST_PROMPTS:
            why = f"found {len(found):,} prompts; at most {MOST_PROMPTS} are continued at each evaluation"
        if why:
            raise RecipeError([Problem(where=recipe.place("run.prompts"), key="run.prompts", what=why)])
        return found
