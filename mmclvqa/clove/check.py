"""Verify a data root: files, records, features, vocabulary, prompts and the numbers of records.

A setting is checked if one of its annotation files exists, if the manifest names it, or if ``--setting`` requires it;
then all its files must exist. A root without annotation files of any known setting is a problem. Deviations from the
published format that are accepted on reading are notes, not problems.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
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
from mmclvqa.clove.text import counted, format_table

PRETRAINED = (data_root.BERT, data_root.DISTILGPT2, data_root.FASTTEXT, data_root.FC7_WEIGHT, data_root.FC7_BIAS)
"""Pretrained weights that are listed."""
SAMPLES = 32
"""Number of feature values read from each database."""

EXAMPLES = 20
"""Number of problems of one kind that are printed unless all are requested."""


@dataclass
class Report:
    """Results of a check.

    Attributes:
        rows: ``(file, contents)`` in the order checked.
        findings: ``{file: {kind: [detail, ...]}}``; a detail is one line that names the record or key.
        notes: lines about accepted deviations from the published format.
    """

    rows: list[tuple[str, str]] = field(default_factory=list)
    findings: dict[str, dict[str, list[str]]] = field(default_factory=lambda: defaultdict(lambda: defaultdict(list)))
    notes: list[str] = field(default_factory=list)

    def add(self, file: str, kind: str, detail: str) -> None:
        """Add one problem of the file ``file``."""
        self.findings[file][kind].append(detail)

    def count(self, file: str | None = None) -> int:
        """Return the number of problems of the file ``file``, or of all files."""
        kinds = self.findings.values() if file is None else [self.findings.get(file, {})]
        return sum(len(details) for by_kind in kinds for details in by_kind.values())


def format_report(report: Report, examples: int | None = EXAMPLES) -> str:
    """Format a report as a table, followed by the notes and the problems grouped by file and kind.

    Args:
        report: result of :meth:`Checker.run`.
        examples: number of problems of one kind that are listed, the others are counted; None lists all.
    """
    listed = dict.fromkeys(file for file, _ in report.rows)
    rows = [(file, contents, report.count(file) or "-") for file, contents in report.rows]
    lines = [
        format_table(("file", "contents", "problems"), rows, text_columns=2),
        "",
        *(f"note: {note}" for note in report.notes),
    ]
    for file in [*listed, *(file for file in report.findings if file not in listed)]:
        for kind, details in report.findings.get(file, {}).items():
            shown = details if examples is None else details[:examples]
            lines += [f"{file}: {detail}" for detail in shown]
            if len(details) > len(shown):
                rest = len(details) - len(shown)
                lines.append(f"{file}: ... and {rest} more of this kind ({kind}); --all lists them")
    total = report.count()
    lines.append(counted(total, "problem") if total else "no problems")
    return "\n".join(lines)


class Checker:
    """Checks a data root.

    Args:
        root: the data root.
        settings: settings that are required; if empty, those that exist are checked.
        samples: number of feature values read from each database.
        progress: whether to show progress bars on stderr.
    """

    def __init__(self, root: Path, settings: Iterable[str] = (), samples: int = SAMPLES, progress: bool = False):
        self.root = root
        names = setting_names(root)
        self.required = tuple(find_setting(setting).name for setting in settings)
        self.settings = list(dict.fromkeys((*names, *self.required)))
        self.samples = samples
        self.progress = progress
        self.report = Report()
        self._published_sizes = True
        # For each database, with whether it has boxes, and feature path: the first record that refers to it.
        self._referenced: dict[tuple[str, bool], dict[str, str]] = defaultdict(dict)

    def run(self) -> Report:
        """Check everything; errors in the data are reported as problems, never raised."""
        manifest = self._manifest()
        present = [setting for setting in list(self.settings) if self._is_present(setting, manifest)]
        own = bool(present) and not any(find_setting(setting).in_package for setting in present)
        if MANIFEST not in self.report.findings:
            contents = "none: records are counted" if own else "none: sizes of published CLOVE"
            contents = f"{manifest.name}, seed {manifest.seed}" if manifest else contents
            self.report.rows.insert(0, (MANIFEST, contents))
        self._vocabulary(own)
        for setting in self.settings:
            if setting in present:
                self._setting(setting, manifest)
            else:
                self.report.rows.append((setting, "not requested" if self.required else "absent"))
        if not present:
            self.report.add(str(self.root), "setting", "contains no annotation files of any known setting")
            self.report.rows.append((str(self.root), "no annotations"))
        for (database, has_boxes), referenced in self._referenced.items():
            self._database(database, has_boxes, referenced)
        self._pretrained()
        return self.report

    def _manifest(self) -> Manifest | None:
        try:
            manifest = load_manifest(self.root)
        except CloveError as error:
            self._unusable(MANIFEST, error)
            self._published_sizes = False
            return None
        self._published_sizes = manifest is None
        return manifest

    def _vocabulary(self, own: bool) -> None:
        file = data_root.VOCABULARY
        try:
            words = load_vocabulary(self.root / file)
        except CloveError as error:
            self._unusable(file, error)
            return
        self.report.rows.append((file, counted(len(words), "answer word")))
        if self._published_sizes and not own and len(words) != data_root.PUBLISHED_SIZE:
            lines = counted(len(words), "line")
            self.report.add(file, "size", f"{lines}, CLOVE's vocabulary has {data_root.PUBLISHED_SIZE}")

    def _is_present(self, setting: str, manifest: Manifest | None) -> bool:
        if self.required:
            return setting in self.required
        if manifest is not None and setting in manifest.tasks:
            return True
        try:
            all_tasks = tasks(setting).values()
        except CloveError as error:
            self._unusable(f"settings/{setting}.yaml", error)
            self.settings.remove(setting)
            return False
        return any(annotation_file(self.root, task, split) for task in all_tasks for split in SPLITS)

    def _setting(self, setting: str, manifest: Manifest | None) -> None:
        in_manifest = manifest.tasks.get(setting, {}) if manifest else {}
        setting_definition = find_setting(setting)
        all_tasks = list(setting_definition.tasks.values())
        # Generated data may have a subset of the tasks, which its manifest lists.
        expected = [task for task in all_tasks if task.name in in_manifest] or all_tasks
        if manifest and not in_manifest and setting_definition.in_package:
            self.report.add(MANIFEST, "setting", f"does not name the {setting} setting")
        for task in expected:
            for split in SPLITS:
                sizes = {}
                if not setting_definition.in_package or (self._published_sizes and not in_manifest):
                    sizes[str(setting_definition.file)] = task.train_size if split == "train" else task.val_size
                if task.name in in_manifest:
                    sizes[MANIFEST] = in_manifest[task.name][split]
                self._annotations(task, split, sizes)
        self._prompts(setting, expected)

    def _annotations(self, task: Task, split: str, expected: dict[str, int | None]) -> None:
        file = task.annotation_path(split)
        path = annotation_file(self.root, task, split)
        if path is None:
            self.report.add(file, "file", "there is no such file, nor a .json in its place")
            self.report.rows.append((file, "missing"))
            return
        file = str(path.relative_to(self.root) if path.is_relative_to(self.root) else path)
        try:
            records = read_annotations(path)
        except CloveError as error:
            self._unusable(file, error)
            return
        coercions = Coercions()
        for index, record in enumerate(self._bar(records, file)):
            record_label = f"record {index}"
            self._record(file, record_label, coercions.apply(record, describe(record, record_label)), task)
        self.report.notes += [f"{file}: {line}" for line in coercions.lines()]
        self.report.rows.append((file, counted(len(records), "record")))
        for source, size in expected.items():
            if size not in (None, len(records)):
                detail = f"{counted(len(records), 'record')} instead of {size}, the number for {split} in {source}"
                self.report.add(file, "size", detail)

    def _record(self, file: str, record_label: str, record: Any, task: Task) -> None:
        invalid_fields = set()
        for name, problem in record_problems(record):
            invalid_fields.add(name)
            kind = f"field {name}" if name else "record"
            self.report.add(
                file, kind, f"{describe(record, record_label)}: {f'field {name} ' if name else ''}{problem}"
            )
        if invalid_fields & {"", "stage", "image_source", "feature_path"}:
            return
        stage = record["stage"]
        if stage != task.name:
            detail = f"{describe(record, record_label)}: field stage is {stage!r} instead of {task.name!r}"
            self.report.add(file, "stage", detail)
        if not has_image(stage):
            return
        path = feature_path(record)
        if path is None or not path.endswith(".npy"):
            problem = f"is {record['feature_path']!r}, not a path that ends in .npy"
            self.report.add(file, "feature path", f"{describe(record, record_label)}: field feature_path {problem}")
            return
        for number, database in enumerate(databases(record["image_source"])):
            self._referenced[database, number == 0].setdefault(path, f"{file}, {describe(record, record_label)}")

    def _prompts(self, setting: str, expected: list[Task]) -> None:
        file = data_root.prompts_path(setting)
        try:
            prompts = load_prompts(self.root / file, setting)
        except CloveError as error:
            self._unusable(file, error)
            return
        self.report.rows.append((file, counted(sum(map(len, prompts.values())), "prompt")))
        for task in expected:
            if not prompts.get(task.name):
                self.report.add(file, "task", f"has no prompt for task {task.name}")

    def _database(self, file: str, has_boxes: bool, referenced: dict[str, str]) -> None:
        try:
            database = shared_database(self.root / file)
        except CloveError as error:
            self._unusable(file, error, f", referenced by {counted(len(referenced), 'image')}")
            return
        keys = []
        for path, record_label in self._bar(referenced.items(), file):
            key = database.key(path)
            if key is None:
                self.report.add(file, "key", f"no feature {path} for {record_label}")
            elif not database.holds(key):
                detail = f"key {key.decode(errors='replace')} is in the key list but has no value, for {record_label}"
                self.report.add(file, "value", detail)
            else:
                keys.append(key)
        rng = random.Random(f"check {file}")
        sampled = sorted(rng.sample(keys, min(self.samples, len(keys))))
        widths = self._values(database, file, has_boxes, sampled)
        stored_features = counted(len(database.keys), "feature") + (f" of width {widths}" if widths else "")
        self.report.rows.append((file, f"{stored_features}, {len(referenced)} referenced, {len(sampled)} read"))

    def _values(self, database: FeatureDatabase, file: str, has_boxes: bool, keys: list[bytes]) -> str:
        widths: dict[int, bytes] = {}
        without_boxes: list[str] = []
        for key in self._bar(keys, f"{file}, values"):
            name = f"key {key.decode(errors='replace')}"
            try:
                value = database.read(key)
            except CloveError as error:
                self.report.add(file, "value", self._within(file, error))
                continue
            problem = value_problem(value, has_boxes)
            if problem:
                self.report.add(file, "value", f"{name}: {problem}")
                continue
            widths.setdefault(value["features"].shape[1], key)
            if has_boxes and "bbox" not in value:
                without_boxes.append(name)
        if without_boxes:
            self.report.notes.append(
                f"{file}: bbox is absent, boxes are zero, in {len(without_boxes)} of the {len(keys)} values read "
                f"(first {without_boxes[0]})"
            )
        if len(widths) > 1:
            widths_text = ", ".join(f"{width} (key {key.decode(errors='replace')})" for width, key in widths.items())
            self.report.add(file, "width", f"features have different widths: {widths_text}")
        return "/".join(map(str, widths))

    def _pretrained(self) -> None:
        """List the pretrained weights; absence is not a problem, because configurations may name other paths."""
        for file in PRETRAINED:
            path = self.root / file
            try:
                if file == data_root.FASTTEXT and path.exists():
                    data_root.check_fasttext(path)
                self.report.rows.append((file, "present" if path.exists() else "absent"))
            except CloveError as error:
                self._unusable(file, error)

    def _unusable(self, file: str, error: CloveError, more: str = "") -> None:
        self.report.rows.append((file, f"unusable{more}"))
        self.report.add(file, "file", self._within(file, error))

    def _within(self, file: str, error: CloveError) -> str:
        """Return the text of an error without the path with which the problem begins."""
        return str(error).removeprefix(str(self.root / file)).lstrip(":, ")

    def _bar(self, items: Any, label: str) -> Any:
        return tqdm(items, desc=label, unit="", leave=False, disable=not self.progress, file=sys.stderr)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the ``check`` command."""
    parser.add_argument("dir", nargs="?", metavar="DIR", help="the data root (default: $CLOVE_ROOT)")
    parser.add_argument("--setting", action="append", help="require this setting (may be repeated)")
    parser.add_argument("--samples", type=int, default=SAMPLES, help="feature values read from each database")
    parser.add_argument("--all", action="store_true", help=f"list more than {EXAMPLES} problems of one kind")


def run(args: argparse.Namespace) -> int:
    """Check a data root and print a table and the problems; return 1 if there are problems."""
    root = data_root.existing_root(args.dir)
    checker = Checker(root, args.setting or (), max(0, args.samples), progress=sys.stderr.isatty())
    report = checker.run()
    print(format_report(report, None if args.all else EXAMPLES))
    return 1 if report.count() else 0
