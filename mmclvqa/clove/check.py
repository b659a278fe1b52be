"""Verify a data root: files, records, features, vocabulary, prompts and the numbers of records.

A setting is checked if one of its annotation files exists, if the manifest names it, or if ``--setting`` requires it;
then all its files must exist, except the prompts of tasks without related scene-graph items, which only SRM needs. A
root without annotation files of any known setting is a problem. Deviations from the published format that are accepted
on reading are notes, not problems.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from tqdm import tqdm

from mmclvqa.clove import data_root
from mmclvqa.clove.data_root import MANIFEST, SPLITS, Manifest, annotation_file, load_manifest, load_vocabulary
from mmclvqa.clove.errors import CloveError
from mmclvqa.clove.features import FeatureDatabase, databases, feature_path, shared_database, value_problem
from mmclvqa.clove.prompts import load_prompts
from mmclvqa.clove.records import Coercions, describe, read_annotations, record_problems
from mmclvqa.clove.tasks import Task, find_setting, has_image, setting_names, tasks
from mmclvqa.clove.text import counted, first_of, format_table

PRETRAINED = (data_root.BERT, data_root.DISTILGPT2, data_root.FASTTEXT, data_root.FC7_WEIGHT, data_root.FC7_BIAS)
SAMPLES = 32
"""Number of feature values read from each database."""

EXAMPLES = 20
"""Number of problems of one kind that are printed unless all are requested."""


class Checker:
    """Checks a data root: the required ``settings``, or if there are none, those that exist.

    Args:
        samples: number of feature values read from each database.

    Attributes:
        rows: ``(file, contents)`` in the order checked.
        findings: ``{file: {kind: [detail, ...]}}``; a detail is one line that names the record or key.
        notes: lines about accepted deviations from the published format.
    """

    def __init__(self, root: Path, settings: Iterable[str] = (), samples: int = SAMPLES, progress: bool = False):
        self.root = root
        names = setting_names(root)
        self.required = tuple(find_setting(setting).name for setting in settings)
        self.settings = list(dict.fromkeys((*names, *self.required)))
        self.samples = samples
        self.progress = progress
        self.rows: list[tuple[str, str]] = []
        self.findings: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
        self.notes: list[str] = []
        # Whether the sizes must be those of published CLOVE, which has no manifest.
        self._published_sizes = False
        # Annotation files with related scene-graph items, and tasks whose train records have none.
        self._related: set[str] = set()
        self._graphless: set[Task] = set()
        # For each database, with whether it has boxes, and feature path: the first record that refers to it.
        self._referenced: dict[tuple[str, bool], dict[str, str]] = defaultdict(dict)

    def count(self, file: str | None = None) -> int:
        """Return the number of problems of the file ``file``, or of all files."""
        kinds = self.findings.values() if file is None else [self.findings.get(file, {})]
        return sum(len(details) for by_kind in kinds for details in by_kind.values())

    def report(self, examples: int | None = EXAMPLES) -> str:
        """Return a table of the files, followed by the notes and the problems grouped by file and kind.

        Args:
            examples: number of problems of one kind that are listed, the others are counted; None lists all.
        """
        rows = [(file, contents, self.count(file) or "-") for file, contents in self.rows]
        table = format_table(("file", "contents", "problems"), rows, text_columns=2)
        lines = [table, "", *(f"note: {note}" for note in self.notes)]
        for file in dict.fromkeys([*(file for file, _ in self.rows), *self.findings]):
            for kind, details in self.findings.get(file, {}).items():
                shown = details if examples is None else details[:examples]
                lines += [f"{file}: {detail}" for detail in shown]
                if rest := len(details) - len(shown):
                    lines.append(f"{file}: ... and {rest} more of this kind ({kind}); --all lists them")
        total = self.count()
        return "\n".join([*lines, counted(total, "problem") if total else "no problems"])

    def run(self) -> Checker:
        """Check everything and return itself; errors in the data are reported as problems, never raised."""
        manifest = self._load(MANIFEST, load_manifest, self.root)
        self._published_sizes = manifest is None and not self.findings
        present = [setting for setting in list(self.settings) if self._is_present(setting, manifest)]
        own = bool(present) and not any(find_setting(setting).in_package for setting in present)
        if MANIFEST not in self.findings:
            without = "none: records are counted" if own else "none: sizes of published CLOVE"
            self.rows.insert(0, (MANIFEST, f"{manifest.name}, seed {manifest.seed}" if manifest else without))
        self._vocabulary(own)
        for setting in self.settings:
            if setting in present:
                self._setting(setting, manifest)
            else:
                self.rows.append((setting, "not requested" if self.required else "absent"))
        if not present:
            self._add(str(self.root), "setting", "contains no annotation files of any known setting")
            self.rows.append((str(self.root), "no annotations"))
        for (database, has_boxes), referenced in self._referenced.items():
            self._database(database, has_boxes, referenced)
        self._pretrained()
        return self

    def _vocabulary(self, own: bool) -> None:
        file = data_root.VOCABULARY
        words = self._load(file, load_vocabulary, self.root / file)
        if words is None:
            return
        self.rows.append((file, counted(len(words), "answer word")))
        size = data_root.PUBLISHED_SIZE
        if self._published_sizes and not own and len(words) != size:
            self._add(file, "size", f"{counted(len(words), 'line')}, CLOVE's vocabulary has {size}")

    def _is_present(self, setting: str, manifest: Manifest | None) -> bool:
        if self.required:
            return setting in self.required
        if manifest is not None and setting in manifest.tasks:
            return True
        by_letter = self._load(f"settings/{setting}.yaml", tasks, setting)
        if by_letter is None:
            self.settings.remove(setting)
            return False
        return any(annotation_file(self.root, task, split) for task in by_letter.values() for split in SPLITS)

    def _setting(self, setting: str, manifest: Manifest | None) -> None:
        in_manifest = manifest.tasks.get(setting, {}) if manifest else {}
        definition = find_setting(setting)
        all_tasks = list(definition.tasks.values())
        # Generated data may have a subset of the tasks, which its manifest lists.
        expected = [task for task in all_tasks if task.name in in_manifest] or all_tasks
        if manifest and not in_manifest and definition.in_package:
            self._add(MANIFEST, "setting", f"does not name the {setting} setting")
        for task in expected:
            for split in SPLITS:
                sizes = {}
                if not definition.in_package or self._published_sizes:
                    sizes[str(definition.file)] = task.train_size if split == "train" else task.val_size
                if task.name in in_manifest:
                    sizes[MANIFEST] = in_manifest[task.name][split]
                self._annotations(task, split, sizes)
        self._prompts(setting, expected)

    def _annotations(self, task: Task, split: str, expected: dict[str, int | None]) -> None:
        file = task.annotation_path(split)
        path = annotation_file(self.root, task, split)
        if path is None:
            self._add(file, "file", "there is no such file, nor a .json in its place")
            self.rows.append((file, "missing"))
            return
        file = str(path.relative_to(self.root) if path.is_relative_to(self.root) else path)
        records = self._load(file, read_annotations, path)
        if records is None:
            return
        if not records:
            self._add(file, "size", "contains no records")
        coercions = Coercions()
        first_of_id: dict[str, str] = {}
        repeated: list[str] = []
        for index, record in enumerate(self._bar(records, file)):
            label = describe(record, f"record {index}")
            complete = coercions.apply(record, label)
            self._record(file, label, complete, task)
            question_id = str(complete.get("question_id")) if isinstance(complete, dict) else label
            if first_of_id.setdefault(question_id, label) != label:
                repeated.append(label)
        if split == "train" and records and file not in self._related:
            self._graphless.add(task)
        if repeated:
            effect = "k-means replay and DER++ cannot tell these records apart"
            self.notes.append(f"{file}: {len(repeated)} question ids are repeated (first {repeated[0]}); {effect}")
        self.notes += [f"{file}: {line}" for line in coercions.lines()]
        self.rows.append((file, counted(len(records), "record")))
        for source, size in expected.items():
            if size not in (None, len(records)):
                detail = f"{counted(len(records), 'record')} instead of {size}, the number for {split} in {source}"
                self._add(file, "size", detail)

    def _record(self, file: str, label: str, record: Any, task: Task) -> None:
        invalid_fields = set()
        for name, problem in record_problems(record):
            invalid_fields.add(name)
            field = f"field {name}" if name else ""
            self._add(file, field or "record", f"{label}: {f'{field} {problem}'.lstrip()}")
        if invalid_fields & {"", "gt_scene_graph_mask"} or any(record["gt_scene_graph_mask"]):
            self._related.add(file)
        if not invalid_fields & {"", "question", "answers"}:
            for name, texts in (("question", [record["question"]]), ("answers", record["answers"])):
                if not any(text.strip() for text in texts):
                    self._add(file, "text", f"{label}: field {name} is empty")
        if invalid_fields & {"", "stage", "image_source", "feature_path"}:
            return
        stage = record["stage"]
        if stage != task.name:
            self._add(file, "stage", f"{label}: field stage is {stage!r} instead of {task.name!r}")
        if not has_image(stage):
            return
        path = feature_path(record)
        if path is None or not path.endswith(".npy"):
            problem = f"field feature_path is {record['feature_path']!r}, not a path that ends in .npy"
            self._add(file, "feature path", f"{label}: {problem}")
            return
        for number, database in enumerate(databases(record["image_source"])):
            self._referenced[database, number == 0].setdefault(path, f"{file}, {label}")

    def _prompts(self, setting: str, expected: list[Task]) -> None:
        file = data_root.prompts_path(setting)
        exists = (self.root / file).exists()
        prompts = self._load(file, load_prompts, self.root / file, setting) if exists else {}
        if prompts is None:
            return
        self.rows.append((file, counted(sum(map(len, prompts.values())), "prompt") if exists else "absent"))
        without_prompts = [task for task in expected if not prompts.get(task.name)]
        graphless = [task.name for task in without_prompts if task in self._graphless]
        if graphless:
            reason = f"no train record of {first_of(graphless, 3)} has a related scene-graph item (mask 1)"
            self.notes.append(f"{file}: SRM cannot be used: {reason}")
        if exists:
            for task in without_prompts:
                if task.name not in graphless:
                    self._add(file, "task", f"has no prompt for task {task.name}")
        elif not graphless:
            advice = "`python -m sg_generation` samples the prompts, which SRM needs"
            self._add(file, "file", f"there is no such file; {advice}")

    def _database(self, file: str, has_boxes: bool, referenced: dict[str, str]) -> None:
        more = f", referenced by {counted(len(referenced), 'image')}"
        database = self._load(file, shared_database, self.root / file, more=more)
        if database is None:
            return
        keys = []
        for path, record_label in self._bar(referenced.items(), file):
            key = database.key(path)
            if key is None:
                self._add(file, "key", f"no feature {path} for {record_label}")
            elif not database.holds(key):
                detail = f"key {key.decode(errors='replace')} is in the key list but has no value, for {record_label}"
                self._add(file, "value", detail)
            else:
                keys.append(key)
        rng = random.Random(f"check {file}")
        sampled = sorted(rng.sample(keys, min(self.samples, len(keys))))
        widths = self._values(database, file, has_boxes, sampled)
        stored_features = counted(len(database.keys), "feature") + (f" of width {widths}" if widths else "")
        self.rows.append((file, f"{stored_features}, {len(referenced)} referenced, {len(sampled)} read"))

    def _values(self, database: FeatureDatabase, file: str, has_boxes: bool, keys: list[bytes]) -> str:
        widths: dict[int, bytes] = {}
        without_boxes: list[str] = []
        for key in self._bar(keys, f"{file}, values"):
            name = f"key {key.decode(errors='replace')}"
            try:
                value = database.read(key)
            except CloveError as error:
                self._add(file, "value", self._within(file, error))
                continue
            if problem := value_problem(value, has_boxes):
                self._add(file, "value", f"{name}: {problem}")
                continue
            widths.setdefault(value["features"].shape[1], key)
            if has_boxes and "bbox" not in value:
                without_boxes.append(name)
        if without_boxes:
            self.notes.append(
                f"{file}: bbox is absent, boxes are zero, in {len(without_boxes)} of the {len(keys)} values read "
                f"(first {without_boxes[0]})"
            )
        if len(widths) > 1:
            widths_text = ", ".join(f"{width} (key {key.decode(errors='replace')})" for width, key in widths.items())
            self._add(file, "width", f"features have different widths: {widths_text}")
        return "/".join(map(str, widths))

    def _pretrained(self) -> None:
        """List the pretrained weights; absence is not a problem, because configurations may name other paths."""
        for file in PRETRAINED:
            path = self.root / file
            if file == data_root.FASTTEXT and path.exists():
                self._load(file, data_root.check_fasttext, path)
            if file not in self.findings:
                self.rows.append((file, "present" if path.exists() else "absent"))

    def _add(self, file: str, kind: str, detail: str) -> None:
        self.findings[file][kind].append(detail)

    def _load(self, file: str, load: Callable[..., Any], *arguments: Any, more: str = "") -> Any:
        """Return what ``load`` reads from a file, None where the file is unusable."""
        try:
            return load(*arguments)
        except CloveError as error:
            self.rows.append((file, f"unusable{more}"))
            self._add(file, "file", self._within(file, error))
            return None

    def _within(self, file: str, error: CloveError) -> str:
        """Return the text of an error without the path with which the problem begins."""
        return str(error).removeprefix(str(self.root / file)).lstrip(":, ")

    def _bar(self, items: Any, label: str) -> Any:
        return tqdm(items, desc=label, unit="", leave=False, disable=not self.progress, file=sys.stderr)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the ``check`` command."""
    parser.add_argument("dir", nargs="?", metavar="DIR", help="the data root (default: $CLOVE_ROOT)")
    parser.add_argument("--setting", action="append", help="require this setting (may be repeated)")
    parser.add_argument(
        "--samples", type=int, default=SAMPLES, help="feature values read from each database (default: %(default)s)"
    )
    parser.add_argument("--all", action="store_true", help=f"list more than {EXAMPLES} problems of one kind")


def run(args: argparse.Namespace) -> int:
    """Check a data root and print a table and the problems; return 1 if there are problems."""
    root = data_root.existing_root(args.dir)
    checker = Checker(root, args.setting or (), max(0, args.samples), progress=sys.stderr.isatty()).run()
    print(checker.report(None if args.all else EXAMPLES))
    return 1 if checker.count() else 0
