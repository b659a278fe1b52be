"""Import of other data: records become the tasks of a new setting.

The command reads the records from published files; see ``docs/your_own.md`` for the command and the function.
"""

from __future__ import annotations

import argparse
import os
import random
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from mmclvqa.clove import data_root
from mmclvqa.clove.data_root import SPECIALS, SPLITS, VOCABULARY
from mmclvqa.clove.errors import DataError
from mmclvqa.clove.files import atomic_write, read_json
from mmclvqa.clove.question_files import Findings, QuestionFiles, Row, value_at
from mmclvqa.clove.records import check_record, describe, save_records
from mmclvqa.clove.tasks import default_data_root, find_setting, new_setting
from mmclvqa.clove.text import did_you_mean, format_table, positive

VOCABULARY_WORDS = 6000
"""Number of the most frequent answer words in a new vocabulary, about as many as CLOVE's has."""
FEATURE_PATH = "{image_id}.npy"

Record = dict[str, Any]
Assign = Callable[[Record], str | None]
"""Returns the task of a record, None to leave it out."""
TaskOf = Callable[[str, Record], str | None]
"""Returns the task of a question, given its id and published form."""


@dataclass
class Imported:
    """Result of an import.

    Attributes:
        setting: the setting file.
        counts: number of records by task and split.
        related: number of train records with a related scene-graph item, which SRM learns from, by task.
        unassigned: number of records without a task, which are left out.
        findings: records that are left out or incomplete, by kind of problem.
        vocabulary: the answer vocabulary if it was written, None if the data root had one.
        notes: options without effect, and absent feature databases.
        unknown_words: words of the train answers that the data root's own vocabulary lacks, the most frequent first.
    """

    setting: Path
    counts: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    related: Counter[str] = field(default_factory=Counter)
    unassigned: int = 0
    findings: Findings = field(default_factory=dict)
    vocabulary: Path | None = None
    notes: list[str] = field(default_factory=list)
    unknown_words: list[str] = field(default_factory=list)

    def summary(self) -> str:
        """Return a table of the tasks, what was left out, and the files written."""
        rows = [(task, *(count[split] for split in SPLITS), self.related[task]) for task, count in self.counts.items()]
        lines = [format_table(("task", *SPLITS, "train records that SRM learns from"), rows)]
        lines += [f"note: {line}" for line in (*finding_lines(self.findings), *self.notes)]
        if self.unassigned:
            lines.append(f"note: questions without a task, left out: {self.unassigned}")
        if self.unknown_words:
            lines.append(
                f"warning: {VOCABULARY} of the data root lacks {len(self.unknown_words)} of the answer words, such as "
                f"{', '.join(self.unknown_words[:3])}; answers with them cannot be learned: add them to the file "
                "before any training, or import into another data root"
            )
        lines.append(f"written to {self.setting}" + (f" and {self.vocabulary}" if self.vocabulary else ""))
        return "\n".join(lines)


@dataclass(frozen=True)
class ImportOptions:
    """Options of :func:`import_records`.

    Attributes:
        tasks: the tasks in their base order; if empty, those that occur, in order of appearance.
        features: feature databases below ``features`` of the data root: of objects, then possibly of OCR tokens.
        feature_path: for records without one, with ``{image_id}`` and ``{split}``.
        sizes: at most this number of records of each task, by split, drawn at random.
        strict: raise an error if records are incomplete or inconsistent; records without a task are still left out.
        replace: replace a setting of that name; its scene-graph prompts, which are of other records, are removed.
    """

    tasks: Sequence[str] = ()
    features: Sequence[str] = ()
    feature_path: str = FEATURE_PATH
    sizes: Mapping[str, int | None] | None = None
    seed: int = 0
    description: str = ""
    strict: bool = False
    replace: bool = False


def import_records(
    records: Mapping[str, Iterable[Record]],
    assign: Assign,
    root: str | os.PathLike[str],
    name: str,
    *,
    findings: Findings | None = None,
    **options: Any,
) -> Imported:
    """Write records as the tasks of a new setting: annotation files, the setting file, and a vocabulary if none exists.

    Args:
        records: records by split, ``train`` and ``val``, as :func:`mmclvqa.clove.records.new_record` returns them.
        assign: returns the task of a record, None to leave the record out; it becomes the ``stage``.
        root: the data root; the setting is ``settings/<name>.yaml`` in it.
        name: name of the setting, also of its image source and the folder of its annotation files.
        findings: problems found so far.
        options: attributes of :class:`ImportOptions`.

    Raises:
        DataError: problems in strict mode, a task without records in a split, a setting that exists, or a damaged
            vocabulary.
        RecordError: a record does not match the schema.
        TaskError: a name of the setting or of a task is not allowed.
    """
    chosen, root = ImportOptions(**options), Path(root)
    _check_arguments(records, chosen)
    if Path(name).name != name:
        raise DataError(f"{name}: the name of a setting must not contain a folder")
    path = root / "settings" / f"{name}.yaml"
    if path.exists() and not chosen.replace:
        advice = "choose another name, or replace it (--replace; in Python, replace=True)"
        raise DataError(f"{path}: already exists; {advice}")
    # Reading the records may add problems.
    result = Imported(path, findings={} if findings is None else findings)
    drawn = _drawn_records(records, assign, name, chosen, result)
    tasks = list(chosen.tasks or result.counts)
    content = {
        "description": chosen.description,
        "tasks": [{"name": task} for task in tasks],
        "image_sources": {name: {"features": list(chosen.features) or [f"{name}/objects.lmdb"]}},
    }
    _check(result, tasks, chosen.strict)
    setting = new_setting(path, content)
    words = answer_words(record for task in tasks for record in drawn[task, "train"])
    vocabulary = root / VOCABULARY
    if vocabulary.exists():
        in_vocabulary = set(data_root.load_vocabulary(vocabulary))
        result.unknown_words = [word for word in words if word not in in_vocabulary]
    if path.exists():
        (root / data_root.prompts_path(name)).unlink(missing_ok=True)
    for task in setting.tasks.values():
        for split in SPLITS:
            save_records(root / task.annotation_path(split), drawn[task.name, split])
            result.counts[task.name][split] = len(drawn[task.name, split])
        result.related[task.name] = sum(any(record["gt_scene_graph_mask"]) for record in drawn[task.name, "train"])
    if not vocabulary.exists():
        result.vocabulary = vocabulary
        data_root.save_vocabulary(vocabulary, words)
    with atomic_write(path) as file:
        yaml.safe_dump(content, file, sort_keys=False, allow_unicode=True)
    return result


def _drawn_records(
    records: Mapping[str, Iterable[Record]], assign: Assign, name: str, options: ImportOptions, result: Imported
) -> dict[tuple[str, str], list[Record]]:
    """Draw records by task and split; ``result`` receives the numbers of all records and what is left out."""
    drawn: dict[tuple[str, str], list[Record]] = defaultdict(list)
    for split in SPLITS:
        ids: dict[str, set[str]] = defaultdict(set)
        rng = random.Random(f"{options.seed}/import/{name}/{split}")
        size = (options.sizes or {}).get(split)
        for index, record in enumerate(records[split]):
            where = f"{split} record {index}"
            check_record(record, where)
            task, image, file = assign(record), record["image_id"], record["feature_path"]
            if task is None:
                result.unassigned += 1
                continue
            lacking = {
                "questions without a text": not record["question"].strip(),
                "questions without an answer": not any(answer.strip() for answer in record["answers"]),
                "questions without an image": file is None and image in (None, ""),
                "repeated question ids": str(record["question_id"]) in ids[task],
            }
            if kind := next((kind for kind, is_lacking in lacking.items() if is_lacking), None):
                result.findings.setdefault(kind, []).append(describe(record, where))
                continue
            ids[task].add(str(record["question_id"]))
            file = file or _filled(options.feature_path, image_id=image, split=split)
            source = record["image_source"] or name
            record = {**record, "stage": task, "set_name": split, "feature_path": file, "image_source": source}
            result.counts[task][split] += 1
            # A uniform sample of the records seen so far (reservoir sampling).
            if size is None or len(drawn[task, split]) < size:
                drawn[task, split].append(record)
            elif (slot := rng.randrange(result.counts[task][split])) < size:
                drawn[task, split][slot] = record
    return drawn


def _check_arguments(records: Mapping[str, Iterable[Record]], options: ImportOptions) -> None:
    """Check the splits, the sizes and the names of the tasks.

    Raises:
        DataError: one of them is not as :func:`import_records` needs it.
    """
    if set(records) != set(SPLITS):
        raise DataError(f"records: expected the splits {' and '.join(SPLITS)}, not {', '.join(records) or 'none'}")
    if isinstance(options.tasks, str):
        raise DataError(f"tasks={options.tasks!r}: expected a list of names")
    sizes = options.sizes or {}
    if not isinstance(sizes, Mapping) or not set(sizes) <= set(SPLITS):
        raise DataError(f"sizes={sizes}: expected a mapping with the keys {' and '.join(SPLITS)}")
    for split, size in sizes.items():
        if size is not None and (type(size) is not int or size < 1):
            raise DataError(f"sizes: {split} is {size!r}, not a whole number above 0")


def answer_words(records: Iterable[Record]) -> list[str]:
    """Return the lines of a vocabulary with the most frequent words of all answers."""
    answers = Counter(answer for record in records for answer in record["answers"])
    counts: Counter[str] = Counter()
    for answer, count in answers.items():
        # Answers are split into words as in MMF's processor.
        counts.update(dict.fromkeys(re.sub("[,?]", "", answer.lower()).replace("'s", " 's").split(), count))
    words = [word for word, _ in counts.most_common() if word not in SPECIALS]
    return [*SPECIALS, *words[:VOCABULARY_WORDS]]


def _filled(pattern: str, **fields: Any) -> str:
    try:
        path = pattern.format(**fields)
    except (KeyError, IndexError, ValueError, AttributeError, TypeError) as error:
        raise DataError(f"feature path {pattern!r}: cannot be filled with {fields} ({error})") from None
    if "{image_id" not in pattern:
        raise DataError(f"feature path {pattern!r}: has no {{image_id}}, so that all images would share it")
    return path


def _check(result: Imported, tasks: Sequence[str], strict: bool) -> None:
    if strict and any(result.findings.values()):
        raise DataError(f"{'; '.join(finding_lines(result.findings))}; nothing was written")
    if unknown := [task for task in result.counts if task not in tasks]:
        raise DataError(f"task {unknown[0]!r} is not one of {', '.join(tasks)}; nothing was written")
    if len(tasks) < 2:
        names = f"one task, {tasks[0]!r}" if tasks else "no task"
        raise DataError(f"the records have {names}, and a setting has at least two; nothing was written")
    for task in tasks:
        for split in SPLITS:
            if not result.counts[task][split]:
                advice = "merge it with another task (--task; in Python, assign)"
                raise DataError(f"task {task!r} has no {split} records; nothing was written; {advice}")


def finding_lines(findings: Findings) -> list[str]:
    """Return one line for each kind of problem."""
    return [f"{kind}: {len(places)} (first {places[0]})" for kind, places in findings.items() if places]


def _task_choice(args: argparse.Namespace, files: Iterable[QuestionFiles], findings: Findings) -> TaskOf:
    """Return the function that chooses the task of a question, from the arguments of the command."""
    questions = {question_id: row for one in files for question_id, row in one.questions.items()}
    if args.assign:
        if args.task:
            raise DataError("--task merges values of --by; leave it out, or write its tasks into the file of --assign")
        assigned = read_json(args.assign)
        if not isinstance(assigned, dict) or not set(map(type, assigned.values())) <= {str}:
            raise DataError(f"{args.assign}: is not a table of tasks by question id")
        places = [f"{args.assign}: {question_id}" for question_id in assigned if question_id not in questions]
        findings["assignments without a question"] = places
        return lambda question_id, row: assigned.get(question_id)
    values = {value_at(row, args.by) for row in questions.values()} - {None}
    fields = ", ".join(_fields(next(iter(questions.values()))))
    if not values:
        inner = [name for row in questions.values() for name in _fields(row) if name.startswith(f"{args.by}.")]
        if inner:
            raise DataError(f"--by {args.by} is a table; name one of its fields: {', '.join(dict.fromkeys(inner))}")
        raise DataError(f"no question has a field {args.by!r}; its fields are {fields}")
    if args.task:
        pairs = [(value, task) for task, group in args.task for value in group]
        names = dict(pairs)
        if unknown := sorted(names.keys() - values):
            raise DataError(f"no question has {args.by} {unknown[0]!r}{did_you_mean(unknown[0], values)}")
        for value, task in pairs:
            if names[value] != task:
                raise DataError(f"--task: {value!r} is in {task!r} and in {names[value]!r}; leave it out of one")
    else:
        if len(values) == 1:
            (value,) = values
            problem = f"every question has the value {value!r}, which makes one task; a setting has at least two"
            raise DataError(f"--by {args.by}: {problem}; choose another field of {fields}, or use --assign")
        names = {value: re.sub(r"[^\w #.+]", "_", value).strip() for value in sorted(values)}
        value_of = {task: value for value, task in names.items()}
        for value, task in names.items():
            if value_of[task] != value:
                both = f"{args.by} {value!r} and {value_of[task]!r}"
                raise DataError(f"{both} would be one task, {task!r}; name each task, or merge them (--task)")
    return lambda question_id, row: names.get(value_at(row, args.by))


def _fields(row: Row) -> list[str]:
    """Return the names of the fields of a question by which it can have a task, such as ``types.structural``."""
    names: list[str] = []
    for key, value in row.items():
        names += [f"{key}.{inner}" for inner in value] if isinstance(value, Mapping) else [key]
    return [name for name in names if value_at(row, name) is not None]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the ``import`` command."""
    parser.add_argument("name", metavar="NAME", help="name of the new setting")
    parser.add_argument("dir", nargs="?", metavar="DIR", help="the data root (default: $CLOVE_ROOT, else data/clove)")
    for split in SPLITS:
        parser.add_argument(f"--{split}", nargs="+", required=True, metavar="FILE",
                            help=f"files of the {split} split: questions, annotations, scene graphs, OCR tokens; "
                                 "predicted scene graphs are a JSON table of lists of items by image id")  # fmt: skip
        parser.add_argument(f"--{split}-size", type=positive, metavar="N",
                            help=f"draw at most N {split} records of each task")  # fmt: skip
    choice = parser.add_mutually_exclusive_group(required=True)
    choice.add_argument("--by", metavar="FIELD",
                        help="split into tasks by a field of the questions or annotations, such as question_type of "
                             "VQA v2 or types.structural of GQA")  # fmt: skip
    choice.add_argument("--assign", metavar="FILE", help="split into tasks by a JSON table of tasks by question id")
    parser.add_argument("--task", action="append", type=_group, metavar="NAME=VALUE,...",
                        help="merge values of --by into a task (may be repeated); others are left out")  # fmt: skip
    parser.add_argument("--features", nargs="+", default=[], metavar="LMDB",
                        help=f"feature databases below {data_root.FEATURES}: of objects, then possibly of OCR tokens "
                             "(default: NAME/objects.lmdb)")  # fmt: skip
    parser.add_argument("--feature-path", default=FEATURE_PATH, metavar="PATTERN",
                        help="feature path, with {image_id} and {split} (default: %(default)s)")  # fmt: skip
    parser.add_argument("--true-graphs", action="store_true",
                        help="the answer model reads the true scene graph where none is predicted")  # fmt: skip
    parser.add_argument("--seed", type=int, default=0, help="seed of the draws (default: %(default)s)")
    parser.add_argument(
        "--strict", action="store_true", help="fail without writing anything if records are incomplete or inconsistent"
    )
    parser.add_argument(
        "--replace", action="store_true", help="replace an existing setting, and remove its scene-graph prompts"
    )


def _group(text: str) -> tuple[str, list[str]]:
    name, _, values = text.partition("=")
    if not name or not values:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE,...")
    return name, [value.strip() for value in values.split(",")]


def _notes(args: argparse.Namespace, files: Iterable[QuestionFiles], root: Path, result: Imported) -> Iterator[str]:
    """Yield which options had no effect, and which feature databases do not exist."""
    for split in SPLITS:
        size, most = getattr(args, f"{split}_size"), max(count[split] for count in result.counts.values())
        if size and size > most:
            yield f"--{split}-size {size} has no effect: no task has more than {most} {split} records"
    if args.true_graphs and not any(one.uses_true_graphs for one in files):
        yield "--true-graphs has no effect: no record has a true graph but no predicted one"
    for database in find_setting(result.setting).image_sources[args.name].features:
        if not (path := root / data_root.FEATURES / database).exists():
            yield f"there is no feature database {path}, which training reads"


def run(args: argparse.Namespace) -> int:
    """Import published files, print the tasks and what was left out, and return 0."""
    root = Path(args.dir) if args.dir else default_data_root()
    findings: Findings = {}
    files = {split: QuestionFiles(getattr(args, split), findings) for split in SPLITS}
    task_of = _task_choice(args, files.values(), findings)
    result = import_records(
        {split: one.records(task_of, args.true_graphs) for split, one in files.items()},
        lambda record: record["stage"] or None,
        root,
        args.name,
        tasks=[task for task, _ in args.task or ()],
        features=args.features,
        feature_path=args.feature_path,
        sizes={split: getattr(args, f"{split}_size") for split in SPLITS},
        seed=args.seed,
        description=f"Tasks differ in {args.by}." if args.by else "",
        strict=args.strict,
        replace=args.replace,
        findings=findings,
    )
    result.notes += _notes(args, files.values(), root, result)
    print(result.summary())
    return 0
