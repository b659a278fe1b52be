"""Replay files: texts are generated in parts, which a resumed run reuses, and accepted ones become records."""

from __future__ import annotations

import json
import logging
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from tqdm import tqdm

from mmclvqa.clove.errors import DataError
from mmclvqa.clove.files import read_json, write_json
from mmclvqa.clove.records import load_records, save_records
from mmclvqa.clove.tasks import Task
from mmclvqa.clove.text import counted
from SRM.data import Prompt, Prompts, choose_prompts
from SRM.folder import RunFolder, statistics_file
from SRM.generate import Generator
from SRM.records import REFUSALS, Generation, Judge, build_replay_record, refusal, replay_statistics
from SRM.settings import Settings
from SRM.tokens import task_token

log = logging.getLogger("SRM")

PART = 4096
"""Number of prompts of a part. The parts of a command are always the same, so a resumed run has the same batches."""


class ReplayWriter:
    """Writes the replay files of a run; its processes share the parts, and ``judge`` verifies the answers if given."""

    def __init__(self, settings: Settings, accelerator: Accelerator, folder: RunFolder, judge: Judge | None) -> None:
        self.settings, self.accelerator, self.folder, self.judge = settings, accelerator, folder, judge

    def write(
        self, generator: Generator, prompts: Prompts, past: Task, current: Task, real_answers: Mapping[str, int] | None
    ) -> None:
        """Write the replays of ``past`` before ``current`` and their statistics, unless the file exists.

        Raises:
            DataError: a part of the file that was generated earlier is damaged.
            OSError: a file cannot be written.
        """
        path = self.folder.replay(past, current)
        if path.exists():
            return
        chosen = choose_prompts(self.settings, prompts, past, current)
        # Generation is deterministic, so a prompt that is drawn repeatedly is generated from once.
        distinct = list(dict.fromkeys(chosen))
        parts = [distinct[first : first + PART] for first in range(0, len(distinct), PART)]
        for number, part in enumerate(parts):
            if number % self.accelerator.num_processes == self.accelerator.process_index:
                self._generate(generator, part, past, current, number)
        self.accelerator.wait_for_everyone()
        if self.accelerator.is_main_process:
            generations, cut = self._read_parts(chosen, parts, past, current)
            outcome = Counter(cut=cut, left_out=prompts.left_out)
            records = self._accept(generations, generator.encoder_decoder, past, current, outcome)
            statistics = {"task": past.name, "before": current.name}
            statistics |= {"model": self.settings.model_name, "seed": self.settings.seed}
            statistics |= replay_statistics(records, outcome, real_answers, self.judge)
            write_json(statistics_file(path), statistics)
            save_records(path, records)
            _log_statistics(path.name, statistics)
        self.accelerator.wait_for_everyone()

    def join(self, earlier: Sequence[Task], current: Task) -> None:
        """Write all replays generated before ``current`` into one file, with their statistics, and remove the parts.

        Raises:
            DataError: the statistics of a task cannot be read.
        """
        path = self.folder.joined_replay(current)
        if not self.accelerator.is_main_process:
            return
        for past in earlier:
            for part in list(self.folder.unfinished.glob(self._part_file(past, current, "*").name)):
                part.unlink()
        if path.exists():
            return
        records = [record for past in earlier for record in load_records(self.folder.replay(past, current))]
        by_task = {past.name: _read_statistics(self.folder.replay(past, current)) for past in earlier}
        outcome = Counter(accepted=len(records))
        for statistics in by_task.values():
            outcome += Counter({reason: rejected["count"] for reason, rejected in statistics["refused"].items()})
            outcome += Counter(cut=statistics["prompts_cut"], left_out=statistics["records_without_prompt"])
        total = replay_statistics(records, outcome, None, self.judge)
        write_json(statistics_file(path), {"before": current.name, "tasks": list(by_task)} | total)
        save_records(path, records)

    def _part_file(self, past: Task, current: Task, number: str) -> Path:
        return self.folder.unfinished / f"replay_{past.letter}_at_{current.letter}_{number}.json"

    def _generate(self, generator: Generator, part: list[Prompt], past: Task, current: Task, number: int) -> None:
        path = self._part_file(past, current, f"{number:04d}")
        if path.exists():
            log.info(f"replays of {past.name} before {current.name}: part {number + 1} already exists")
            return
        quiet = None if self.accelerator.is_main_process else True
        name = f"{past.letter} before {current.letter}"
        with tqdm(total=2 * len(part), desc=name, unit="text", disable=quiet) as bar:
            texts, cut = generator.texts(part, past, bar.update)
        write_json(path, {"cut": cut, "texts": texts}, indent=None)

    def _read_parts(
        self, chosen: list[Prompt], parts: list[list[Prompt]], past: Task, current: Task
    ) -> tuple[list[Generation], int]:
        """Return the texts generated for each of the ``chosen`` prompts, and how many of these prompts were cut."""
        by_prompt: dict[Prompt, tuple[Generation, bool]] = {}
        for number, part in enumerate(parts):
            content = read_json(self._part_file(past, current, f"{number:04d}"))
            for prompt, texts, cut in zip(part, content["texts"], content["cut"], strict=True):
                by_prompt[prompt] = Generation(prompt, *texts), cut
        return [by_prompt[prompt][0] for prompt in chosen], sum(by_prompt[prompt][1] for prompt in chosen)

    def _accept(
        self, generations: list[Generation], graph_must_end: bool, past: Task, current: Task, outcome: Counter[str]
    ) -> list[dict[str, Any]]:
        """Return the records of the accepted generations, and count acceptances and refusals in ``outcome``."""
        settings, records = self.settings, []
        start = task_token(past, settings.add_task_tokens)
        for number, generation in enumerate(generations):
            reason = refusal(generation, graph_must_end)
            outcome[reason or "accepted"] += 1
            if settings.gen_debug:
                verdict = REFUSALS[reason] if reason else "accepted"
                log.info(f"{verdict}\n  graph {generation.graph}\n  qa    {generation.qa}")
            if reason:
                continue
            rng = random.Random(settings.named_seed("predicted", past.name, current.name, number))
            question_id = f"srm_{settings.task_seq}_{past.letter}2{current.letter}_{number:06d}"
            records.append(build_replay_record(generation, settings.model_name, past.name, start, question_id, rng))
        return records


def _log_statistics(name: str, statistics: Mapping[str, Any]) -> None:
    rejected = ", ".join(f"{reason['count']} {reason['why']}" for reason in statistics["refused"].values())
    truth = ""
    if "truth" in statistics and statistics["accepted"]:
        truth = f", {statistics['truth']['share']:.0%} true"
    questions = counted(statistics["distinct_questions"], "distinct question")
    log.info(
        f"{name}: {statistics['accepted']} of {statistics['prompts']} prompts accepted ({rejected or 'none rejected'})"
        f"{truth}, {questions}, {counted(statistics['duplicates'], 'duplicate')}"
    )
    if not statistics["accepted"]:
        log.warning(f"{name}: no prompt was accepted; the model may need more training")


def _read_statistics(replay: Path) -> dict[str, Any]:
    path = statistics_file(replay)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read ({error}); remove {replay.name} to regenerate both files") from None
