"""Statistics of the tasks of a data root: sizes, answers and lengths of the inputs."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from mmclvqa.clove.data_root import SPLITS, VOCABULARY, annotation_file, existing_root, load_vocabulary
from mmclvqa.clove.errors import DataError
from mmclvqa.clove.files import check_output_file, write_json
from mmclvqa.clove.records import load_records
from mmclvqa.clove.tasks import setting_names, tasks
from mmclvqa.clove.text import format_table

QUANTILES = (0.5, 0.9, 0.99, 1.0)
"""Quantiles of the lengths."""
SOURCES = ("vocabulary", "ocr", "neither")
"""Where the words of an answer come from."""
COUNTS = ("records", "images", "questions", "answers")
LENGTHS = ("question_words", "gt_items", "pred_items", "ocr_tokens")


def split_stats(records: Sequence[Mapping[str, Any]], vocabulary: frozenset[str]) -> dict[str, Any]:
    """Compute the statistics of one split from its checked records.

    Returns:
        ``records``, and the numbers of distinct ``images`` (by source and feature path), ``questions`` and ``answers``;
        ``most_frequent_answer``, the best constant guess, and ``most_frequent_share``, the fraction of records with it;
        the fractions of records whose answer consists of vocabulary words (``from_vocabulary``), otherwise of
        vocabulary words and OCR tokens (``from_ocr``), or of other words (``from_neither``);
        :data:`QUANTILES` of the lengths ``question_words``, ``gt_items``, ``pred_items`` and ``ocr_tokens``.
    """
    answers = Counter(record["answer"] for record in records)
    sources = Counter(_answer_source(record, vocabulary) for record in records)
    images = {(record["image_source"], record["feature_path"]) for record in records}
    frequent, count = answers.most_common(1)[0] if answers else (None, 0)
    total = max(1, len(records))
    return {
        "records": len(records),
        "images": len(images - {(None, None)}),
        "questions": len({record["question"] for record in records}),
        "answers": len(answers),
        "most_frequent_answer": frequent,
        "most_frequent_share": count / total,
        **{f"from_{source}": sources[source] / total for source in SOURCES},
        "question_words": _quantiles(len(record["question"].split()) for record in records),
        "gt_items": _quantiles(len(record["gt_scene_graph_seq"]) for record in records),
        "pred_items": _quantiles(len(record["pred_scene_graph_seq"]) for record in records),
        "ocr_tokens": _quantiles(len(record["ocr_tokens"]) for record in records),
    }


def _answer_source(record: Mapping[str, Any], vocabulary: frozenset[str]) -> str:
    answer = record["answer"].lower()
    words = set(answer.split())
    if answer in vocabulary or (words and words <= vocabulary):
        return "vocabulary"
    tokens = {token.lower() for token in record["ocr_tokens"]}
    return "ocr" if words and words <= vocabulary | tokens else "neither"


def _quantiles(lengths: Any) -> tuple[int, ...]:
    values = np.fromiter(lengths, dtype=np.int64)
    if not values.size:
        return (0,) * len(QUANTILES)
    return tuple(int(value) for value in np.quantile(values, QUANTILES, method="higher"))


def root_stats(root: Path, progress: bool = False) -> dict[str, dict[str, dict[str, dict[str, Any]]]]:
    """Return ``{setting: {task name: {split: statistics}}}`` of every annotation file that exists.

    Raises:
        DataError: no annotation file exists, or a file is damaged.
        RecordError: a record does not match the schema.
    """
    files = [
        (task, split, path)
        for setting in setting_names(root)
        for task in tasks(setting).values()
        for split in SPLITS
        if (path := annotation_file(root, task, split)) is not None
    ]
    if not files:
        raise DataError(f"{root}: contains no annotation files of any known setting")
    vocabulary = frozenset(load_vocabulary(root / VOCABULARY))
    statistics: dict[str, dict[str, dict[str, dict[str, Any]]]] = {}
    for task, split, path in tqdm(files, unit="file", leave=False, disable=not progress, file=sys.stderr):
        by_split = statistics.setdefault(task.setting, {}).setdefault(task.name, {})
        by_split[split] = split_stats(load_records(path), vocabulary)
    return statistics


def format_stats(statistics: Mapping[str, Mapping[str, Mapping[str, dict[str, Any]]]]) -> str:
    """Format one table per setting with one row per task and split."""
    quantiles = "/".join("max" if quantile == 1 else f"{quantile:.0%}" for quantile in QUANTILES)
    lengths = [name.replace("_", " ") for name in LENGTHS]
    header = ("task", "split", *COUNTS, "most frequent answer", *SOURCES, *lengths)
    lines = []
    for setting, by_task in statistics.items():
        rows = [
            (
                name,
                split,
                *(one[count] for count in COUNTS),
                f"{one['most_frequent_answer']} {one['most_frequent_share']:.1%}",
                *(f"{one[f'from_{source}']:.1%}" for source in SOURCES),
                *("/".join(map(str, one[length])) for length in LENGTHS),
            )
            for name, by_split in by_task.items()
            for split, one in by_split.items()
        ]
        lines += [f"{setting} setting", format_table(header, rows, text_columns=2), ""]
    lines.append(f"Lengths are quantiles {quantiles}. vocabulary, ocr, neither: records whose answer consists of")
    lines.append("vocabulary words, of vocabulary words and OCR tokens, or of other words.")
    return "\n".join(lines)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the ``stats`` command."""
    parser.add_argument("dir", nargs="?", metavar="DIR", help="the data root (default: $CLOVE_ROOT)")
    parser.add_argument("--json", metavar="FILE", help="also write the statistics to this JSON file")


def run(args: argparse.Namespace) -> int:
    """Print the statistics of a data root; return 0."""
    check_output_file("--json", args.json)
    statistics = root_stats(existing_root(args.dir), progress=sys.stderr.isatty())
    print(format_stats(statistics))
    if args.json:
        write_json(args.json, {"quantiles": QUANTILES, "settings": statistics})
    return 0
