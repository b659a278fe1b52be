"""Make the data root of the example from the package easy-vqa: ``python -m examples.easy_vqa.make_data DIR``."""

from __future__ import annotations

import argparse
import importlib.util
import random
import shutil
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from examples.easy_vqa.images import FEATURE_DIM, REGIONS, object_features, predict, read_image
from examples.easy_vqa.language import COLORS, KINDS, NO, TASKS, YES, YES_NO, Facts, Question, parse_question, stated
from mmclvqa.clove.data_root import FEATURES, Manifest, existing_annotation_file, prompts_path, save_manifest
from mmclvqa.clove.errors import ConfigError, DataError
from mmclvqa.clove.files import read_json
from mmclvqa.clove.importing import import_records
from mmclvqa.clove.prompts import save_prompts
from mmclvqa.clove.records import ANSWERS_PER_RECORD, ITEM_END, load_records, new_record
from mmclvqa.clove.tasks import tasks
from mmclvqa.clove.text import positive, run_command
from mmclvqa.mini.features import write_database
from mmclvqa.mini.pretrained import wordpieces, write_models
from SRM.data import related_items

NAME = "easy_vqa"
QUESTIONS = "questions.json"
PACKAGE_SPLITS = {"train": "train", "val": "test"}
"""Splits of the setting, and those of the package from which they are drawn."""
ENTRY_BYTES = REGIONS * (4 * FEATURE_DIM + 32) + 1024
"""Maximum size of the features of an image in the database."""
PROMPTS = 2000
"""Number of prompts sampled for a task."""
GPT2_LAYERS = 2
SETTING = Path(__file__).with_name("easy_vqa.yaml")
"""The setting file, in place of the one that an import writes, because it describes the tasks."""

Row = tuple[str, str, int]
"""Question, answer and image, as in ``questions.json``."""


def package_folder() -> Path:
    """Return the folder of the installed package.

    Raises:
        ConfigError: it is not installed.
    """
    found = importlib.util.find_spec(NAME)
    if found is None or not found.submodule_search_locations:
        raise ConfigError("the package easy-vqa is not installed: pip install --no-deps easy-vqa==1.0")
    return Path(found.submodule_search_locations[0])


def read_rows(folder: Path) -> list[Row]:
    """Read the questions in the folder of a split of the package.

    Raises:
        DataError: the file is missing or does not have the form of easy-VQA.
    """
    file = folder / QUESTIONS
    rows = read_json(file)
    if not isinstance(rows, list):
        raise DataError(f"{file}: is not a list of questions")
    for number, row in enumerate(rows):
        if not isinstance(row, list) or list(map(type, row)) != [str, str, int]:
            raise DataError(f"{file}: question {number} is not [question, answer, image number]")
    return [tuple(row) for row in rows]


def split_records(folder: Path, split: str) -> Iterator[dict[str, Any]]:
    """Yield the records of a split, without the yes-no questions that ask what is absent.

    The scene graph of an image consists of what all questions and answers about it state. The item that a question
    states together with its answer is related to it (mask 1). If the answer is no, these are the items of
    :meth:`Facts.contradicting`. The predicted graph is computed from the pixels and has some of the items.

    Args:
        folder: folder of the split in the package.
        split: ``train`` or ``val``.

    Raises:
        DataError: a file is missing, or a question is not one of easy-VQA.
    """
    facts: dict[int, Facts] = defaultdict(Facts)
    asked: list[tuple[Row, Question, Facts]] = []
    for number, row in enumerate(read_rows(folder)):
        text, answer, image = row
        question = parse_question(text)
        if question is None:
            raise DataError(f"{folder / QUESTIONS}: question {number} is not of easy-VQA: {text!r}")
        asked.append((row, question, stated(question, answer)))
        facts[image].join(asked[-1][2])
    predicted = {image: predict(read_image(image_file(folder, image))).items for image in facts}
    for number, ((text, answer, image), question, own) in enumerate(asked):
        if question.negated:
            continue
        items = facts[image].items
        related = own.items[:1] or facts[image].contradicting(question)
        # The related items come first, as in the texts that SRM learns.
        items.sort(key=lambda item, related=related: item not in related)
        found = _some_items(predicted[image], random.Random(f"{split}/{image}/{number}"))
        yield new_record(
            question=text,
            question_id=f"{split}{number:06d}",
            image_id=f"{split}/{image}",
            answer=answer,
            answers=[answer] * ANSWERS_PER_RECORD,
            stage=question.task,
            gt_scene_graph_seq=[item + ITEM_END for item in items],
            gt_scene_graph_mask=[int(item in related) for item in items],
            pred_scene_graph_seq=[item + ITEM_END for item in found],
        )


def _some_items(items: Sequence[str], rng: random.Random) -> list[str]:
    """Draw the first item and any number of the others, in any order.

    SRM generates graphs of one or two items. Real records with three each could be told from replays by their length.
    """
    chosen = [*items[:1], *rng.sample(items[1:], rng.randint(0, max(0, len(items) - 1)))]
    return rng.sample(chosen, len(chosen))


def balanced(records: Sequence[dict[str, Any]], split: str, seed: int) -> list[dict[str, Any]]:
    """Return the records without some yes-no questions, so that as many are answered yes as no."""
    groups: dict[str, list[int]] = {YES: [], NO: []}
    for index, record in enumerate(records):
        if record["stage"] == YES_NO:
            groups[record["answer"]].append(index)
    few, many = sorted(groups.values(), key=len)
    rng = random.Random(f"{seed}/balance/{split}")
    dropped = set(many) - set(rng.sample(many, len(few)))
    return [record for index, record in enumerate(records) if index not in dropped]


def related_prompts(root: Path, setting: str, seed: int) -> dict[str, list[list[str]]]:
    """Draw the prompts of every task from the related items of its train records.

    A prompt has one item, or the two from which the answer no follows, which
    :func:`~mmclvqa.clove.prompts.setting_prompts` does not pair.
    """
    prompts = {}
    for task in tasks(setting).values():
        groups = [related_items(record) for record in load_records(existing_annotation_file(root, task, "train"))]
        rng = random.Random(f"{seed}/prompts/{task.name}")
        prompts[task.name] = [list(items) for items in rng.choices([items for items in groups if items], k=PROMPTS)]
    return prompts


def image_file(folder: Path, image: int) -> Path:
    """Return the file of an image in the folder of a split of the package."""
    return folder / "images" / f"{image}.png"


def make_root(root: Path, package: Path, train: int, val: int, seed: int = 0) -> str:
    """Write the data root, in a temporary folder that is renamed when complete.

    Args:
        package: the folder of the package, with ``data/<split>/questions.json`` and ``data/<split>/images``.
        train, val: maximum number of records of each task.
        seed: seed of all draws.

    Returns:
        A table of the tasks.

    Raises:
        DataError: ``root`` exists, or the package does not have the form of easy-VQA.
    """
    if root.exists():
        raise DataError(f"{root}: already exists; remove it, or choose another folder")
    partial = root.with_name(f".{root.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    folders = {split: package / "data" / name for split, name in PACKAGE_SPLITS.items()}
    records = {split: balanced(list(split_records(folder, split)), split, seed) for split, folder in folders.items()}
    sizes = {"train": train, "val": val}
    imported = import_records(
        records, lambda record: record["stage"], partial, NAME, tasks=TASKS, sizes=sizes, seed=seed
    )
    shutil.copyfile(SETTING, imported.setting)
    images = {
        record["image_id"]: image_file(folders[split], int(record["image_id"].rpartition("/")[2]))
        for split in folders
        for record in records[split]
    }
    database = partial / FEATURES / NAME / "objects.lmdb"
    write_database(database, images, lambda file: object_features(read_image(file)), ENTRY_BYTES)
    _write_models(partial, records["train"], seed)
    save_prompts(partial / prompts_path(NAME), related_prompts(partial, str(imported.setting), seed))
    counts = {task: dict(numbers) for task, numbers in imported.counts.items()}
    save_manifest(partial, Manifest("easy-VQA", seed, {NAME: counts}, {"feature_dim": FEATURE_DIM}))
    partial.rename(root)
    return imported.summary().replace(str(partial), str(root))


def _write_models(root: Path, records: Sequence[dict[str, Any]], seed: int) -> None:
    """Write the untrained language models, with tokens for the words of easy-VQA."""
    lines = [f"{record['question']} {record['answer']}" for record in records]
    lines += [item.removesuffix(ITEM_END) for record in records for item in record["gt_scene_graph_seq"]]
    words = sorted({word.strip("?") for line in lines for word in line.split()} | {*COLORS, *KINDS})
    write_models(root, seed, FEATURE_DIM, lines, words, wordpieces(words), GPT2_LAYERS)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m examples.easy_vqa.make_data", description=__doc__)
    parser.add_argument("dir", type=Path, metavar="DIR", help="the data root to make (CLOVE_ROOT)")
    text = "folder of the package (default: the installed package)"
    parser.add_argument("--package", type=Path, metavar="DIR", help=text)
    for name, default in (("train", 2000), ("val", 500)):
        text = f"maximum number of {name} records of a task (default: %(default)s)"
        parser.add_argument(f"--{name}", type=positive, default=default, metavar="N", help=text)
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="seed of all draws (default: %(default)s)")
    args = parser.parse_args(argv)

    def run() -> int:
        print(make_root(args.dir.absolute(), args.package or package_folder(), args.train, args.val, args.seed))
        return 0

    return run_command(run)


if __name__ == "__main__":
    sys.exit(main())
