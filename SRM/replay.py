"""Writing the replay files: generation in parts that survive a kill, acceptance, records, statistics."""

from __future__ import annotations

import json
import logging
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from accelerate import Accelerator
from tqdm import tqdm

from mmclvqa.clove.annotations import load_records, save_records
from mmclvqa.clove.errors import DataError
from mmclvqa.clove.files import write_json
from mmclvqa.clove.tasks import Task
from SRM.data import Prompt, Prompts, choose_prompts
from SRM.draws import named_seed
from SRM.folders import RunFolder, sidecar
from SRM.generate import Generator
from SRM.records import REFUSALS, Generation, finish, refusal
from SRM.settings import Settings
from SRM.statistics import Judge, describe_replays
from SRM.tokens import task_question_token, task_token

log = logging.getLogger("SRM")

PART = 4096
"""Prompts of a part. Parts are the same in every run of a command, so a run that goes on makes the same batches."""


class ReplayWriter:
    """Writes the replay files of a run.

    Args:
        settings: of the run.
        accelerator: its processes share the parts.
        folder: of the run.
        judge: whether an answer is true, where the data's world is known.
    """

    def __init__(
        self, settings: Settings, accelerator: Accelerator, folder: RunFolder, judge: Judge | None
    ) -> None:
        self.settings, self.accelerator, self.folder, self.judge = settings, accelerator, folder, judge

    def write(
        self,
        generator: Generator,
        prompts: Prompts,
        past: Task,
        current: Task,
        real_answers: Mapping[str, int] | None,
    ) -> None:
        """Write the replays of ``past`` before ``current`` is learned, and their statistics; done files stay.

        Raises:
            OSError: the files cannot be written.
        """
        path = self.folder.replay(past, current)
        if path.exists():
            return
        chosen = choose_prompts(self.settings, prompts, past, current)
        # Nothing is drawn in generation: a prompt that was chosen again has the same texts.
        distinct = list(dict.fromkeys(chosen))
        parts = [distinct[at : at + PART] for at in range(0, len(distinct), PART)]
        for number, part in enumerate(parts):
            if number % self.accelerator.num_processes == self.accelerator.process_index:
                self._generate(generator, part, past, current, number)
        self.accelerator.wait_for_everyone()
        if self.accelerator.is_main_process:
            made, cut = self._read_parts(chosen, parts, past, current)
            outcome = Counter(cut=cut, left_out=prompts.left_out)
            records = self._accept(made, generator.seq2seq, past, current, outcome)
            figures = {
                "task": past.name,
                "before": current.name,
                "model": self.settings.model_name,
                "seed": self.settings.seed,
            }
            figures |= describe_replays(records, outcome, real_answers, self.judge)
            write_json(sidecar(path), figures)
            save_records(path, records)
            self._say(path.name, figures)
            for number in range(len(parts)):
                self._part(past, current, number).unlink()
        self.accelerator.wait_for_everyone()

    def join(self, earlier: Sequence[Task], current: Task) -> None:
        """Write all replays made before ``current`` into one file, and statistics by task and of all."""
        path = self.folder.joined_replay(current)
        if path.exists() or not self.accelerator.is_main_process:
            return
        records = [record for past in earlier for record in load_records(self.folder.replay(past, current))]
        figures = {past.name: _figures(self.folder, past, current) for past in earlier}
        outcome = Counter(accepted=len(records))
        for one in figures.values():
            outcome += Counter({reason: found["count"] for reason, found in one["refused"].items()})
            outcome += Counter(cut=one["prompts_cut"], left_out=one["records_without_prompt"])
        whole = describe_replays(records, outcome, None, self.judge)
        write_json(sidecar(path), {"before": current.name, "tasks": list(figures)} | whole)
        save_records(path, records)

    def _part(self, past: Task, current: Task, number: int) -> Any:
        return self.folder.unfinished / f"replay_{past.letter}_at_{current.letter}_{number:04d}.json"

    def _generate(
        self, generator: Generator, part: list[Prompt], past: Task, current: Task, number: int
    ) -> None:
        path = self._part(past, current, number)
        if path.exists():
            log.info("replays of %s before %s: part %d is there already", past.name, current.name, number + 1)
            return
        start = task_token(past, self.settings.add_task_tokens)
        question_start = task_question_token(past, self.settings.add_task_tokens)
        quiet = None if self.accelerator.is_main_process else True
        name = f"{past.letter} before {current.letter}"
        with tqdm(total=2 * len(part), desc=name, unit="text", disable=quiet) as bar:
            texts, cut = generator.texts(part, start, question_start, bar.update)
        write_json(path, {"cut": cut, "texts": texts}, indent=None)

    def _read_parts(
        self, chosen: list[Prompt], parts: list[list[Prompt]], past: Task, current: Task
    ) -> tuple[list[Generation], int]:
        """What was generated for each of the ``chosen`` prompts, and how many of them were cut."""
        made: dict[Prompt, tuple[Generation, bool]] = {}
        for number, part in enumerate(parts):
            found = json.loads(self._part(past, current, number).read_text(encoding="utf-8"))
            for prompt, texts, cut in zip(part, found["texts"], found["cut"], strict=True):
                made[prompt] = Generation(prompt, *texts), cut
        return [made[prompt][0] for prompt in chosen], sum(made[prompt][1] for prompt in chosen)

    def _accept(
        self, made: list[Generation], seq2seq: bool, past: Task, current: Task, outcome: Counter[str]
    ) -> list[dict[str, Any]]:
        settings, records = self.settings, []
        start = task_token(past, settings.add_task_tokens)
        for number, generation in enumerate(made):
            reason = refusal(generation, graph_must_end=seq2seq)
            outcome[reason or "accepted"] += 1
            if settings.gen_debug:
                log.info(
                    "%s\n  graph %s\n  qa    %s",
                    REFUSALS[reason] if reason else "accepted",
                    generation.graph,
                    generation.qa,
                )
            if reason:
                continue
            rng = random.Random(named_seed(settings.seed, "predicted", past.name, current.name, number))
            question_id = f"srm_{settings.task_seq}_{past.letter}2{current.letter}_{number:06d}"
            records.append(finish(generation, settings.model_name, past.name, start, question_id, rng))
        return records

    def _say(self, name: str, figures: Mapping[str, Any]) -> None:
        refused = ", ".join(f"{found['count']} {found['why']}" for found in figures["refused"].values())
        truth = f", {figures['truth']['share']:.0%} true" if "truth" in figures else ""
        log.info(
            "%s: %d of %d prompts accepted (%s)%s, %d distinct questions, %d duplicates",
            name,
            figures["accepted"],
            figures["prompts"],
            refused or "none refused",
            truth,
            figures["distinct_questions"],
            figures["duplicates"],
        )
        if not figures["accepted"]:
            log.warning("%s: holds no replay; the model may need more training", name)


def _figures(folder: RunFolder, past: Task, current: Task) -> dict[str, Any]:
    path = sidecar(folder.replay(past, current))
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(
            f"{path}: cannot be read ({error}); remove {folder.replay(past, current).name} to have both "
            "made again"
        ) from None
