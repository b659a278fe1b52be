"""Verify a data root: files, records, features, vocabulary, prompts and the numbers of records.

A setting is checked if one of its annotation files exists, if the manifest names it, or if ``--setting`` requires it;
then all its files must exist. A root without either setting is a finding. Deviations from the published format that
are accepted on reading are notes, not findings.
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
from mmclvqa.clove.text import format_table

PRETRAINED = (data_root.BERT, data_root.DISTILGPT2, data_root.FASTTEXT, data_root.FC7_WEIGHT, data_root.FC7_BIAS)
"""Pretrained weights that are listed."""
SAMPLES = 32
"""Number of feature values read from each database."""

EXAMPLES = 20
"""Number of findings of one kind that are printed unless all are requested."""


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

    def add(self, what: str, kind: str, detail: str) -> None:
        """Add one finding about the file ``what``."""
        self.findings[what][kind].append(detail)

    def count(self, what: str | None = None) -> int:
        """Return the number of findings about the file ``what``, or of all findings."""
        kinds = self.findings.values() if what is None else [self.findings.get(what, {})]
        return sum(len(details) for by_kind in kinds for details in by_kind.values())


def format_report(report: Report, examples: int | None = EXAMPLES) -> str:
    """Format a report as a table, followed by the notes and the findings grouped by file and kind.

    Args:
        report: result of :meth:`Checker.run`.
        examples: number of findings of one kind that are listed, the others are counted; None lists all.
    """
    listed = dict.fromkeys(what for what, _ in report.rows)
    rows = [(what, contents, report.count(what) or "-") for what, contents in report.rows]
    lines = [
        format_table(("file", "contents", "findings"), rows, text_columns=2),
        "",
        *(f"note: {note}" for note in report.notes),
    ]
    for what in [*listed, *(what for what in report.findings if what not in listed)]:
        for kind, details in report.findings.get(what, {}).items():
            shown = details if examples is None else details[:examples]
            lines += [f"{what}: {detail}" for detail in shown]
            if len(details) > len(shown):
                rest = len(details) - len(shown)
                lines.append(f"{what}: ... and {rest} more of this kind ({kind}); --all lists them")
    total = report.count()
    lines.append(f"{total} finding{'' if total == 1 else 's'}" if total else "no findings")
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
        """Check everything; errors in the data are findings and never raised."""
        manifest = self._manifest()
        present = [setting for setting in list(self.settings) if self._is_present(setting, manifest)]
        self._vocabulary(own=bool(present) and not any(find_setting(setting).in_package for setting in present))
        for setting in self.settings:
            if setting in present:
                self._setting(setting, manifest)
            else:
                self.report.rows.append((setting, "not requested" if self.required else "absent"))
        if not present:
            self.report.add(str(self.root), "setting", "has annotations of neither setting")
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
        contents = f"{manifest.name}, seed {manifest.seed}" if manifest else "none: sizes of published CLOVE"
        self.report.rows.append((MANIFEST, contents))
        return manifest

    def _vocabulary(self, own: bool) -> None:
        what = data_root.VOCABULARY
        try:
            words = load_vocabulary(self.root / what)
        except CloveError as error:
            self._unusable(what, error)
            return
        self.report.rows.append((what, f"{len(words)} answer words"))
        if self._published_sizes and not own and len(words) != data_root.PUBLISHED_SIZE:
            self.report.add(what, "size", f"{len(words)} lines, CLOVE's vocabulary has {data_root.PUBLISHED_SIZE}")

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
        found = find_setting(setting)
        all_tasks = list(found.tasks.values())
        # Generated data may have a subset of the tasks, which its manifest lists.
        expected = [task for task in all_tasks if task.name in in_manifest] or all_tasks
        if manifest and not in_manifest and found.in_package:
            self.report.add(MANIFEST, "setting", f"does not name the {setting} setting")
        for task in expected:
            for split in SPLITS:
                sizes = {}
                if not found.in_package or (self._published_sizes and not in_manifest):
                    sizes[str(found.file)] = task.train_size if split == "train" else task.val_size
                if task.name in in_manifest:
                    sizes[MANIFEST] = in_manifest[task.name][split]
                self._annotations(task, split, sizes)
        self._prompts(setting, expected)

    def _annotations(self, task: Task, split: str, expected: dict[str, int | None]) -> None:
        what = task.annotation_path(split)
        path = annotation_file(self.root, task, split)
        if path is None:
            self.report.add(what, "file", "there is no such file, nor a .json in its place")
            self.report.rows.append((what, "missing"))
            return
        what = str(path.relative_to(self.root) if path.is_relative_to(self.root) else path)
        try:
            records = read_annotations(path)
        except CloveError as error:
            self._unusable(what, error)
            return
        coercions = Coercions()
        for index, record in enumerate(self._bar(records, what)):
            where = f"record {index}"
            self._record(what, where, coercions.apply(record, describe(record, where)), task)
        self.report.notes += [f"{what}: {line}" for line in coercions.lines()]
        self.report.rows.append((what, f"{len(records)} records"))
        for source, size in expected.items():
            if size not in (None, len(records)):
                detail = f"{len(records)} records instead of {size}, the number of {split} records in {source}"
                self.report.add(what, "size", detail)

    def _record(self, what: str, where: str, record: Any, task: Task) -> None:
        faults = set()
        for name, problem in record_problems(record):
            faults.add(name)
            kind = f"field {name}" if name else "record"
            self.report.add(what, kind, f"{describe(record, where)}: {f'field {name} ' if name else ''}{problem}")
        if faults & {"", "stage", "image_source", "feature_path"}:
            return
        stage = record["stage"]
        if stage != task.name:
            detail = f"{describe(record, where)}: field stage is {stage!r} instead of {task.name!r}"
            self.report.add(what, "stage", detail)
        if not has_image(stage):
            return
        path = feature_path(record)
        if path is None or not path.endswith(".npy"):
            problem = f"is {record['feature_path']!r}, not a path that ends in .npy"
            self.report.add(what, "feature path", f"{describe(record, where)}: field feature_path {problem}")
            return
        for number, database in enumerate(databases(record["image_source"])):
            self._referenced[database, number == 0].setdefault(path, f"{what}, {describe(record, where)}")

    def _prompts(self, setting: str, expected: list[Task]) -> None:
        what = data_root.prompts_path(setting)
        try:
            prompts = load_prompts(self.root / what, setting)
        except CloveError as error:
            self._unusable(what, error)
            return
        self.report.rows.append((what, f"{sum(map(len, prompts.values()))} prompts"))
        for task in expected:
            if not prompts.get(task.name):
                self.report.add(what, "task", f"has no prompt for task {task.name}")

    def _database(self, what: str, has_boxes: bool, referenced: dict[str, str]) -> None:
        try:
            database = shared_database(self.root / what)
        except CloveError as error:
            self._unusable(what, error, f", {len(referenced)} images refer to it")
            return
        keys = []
        for path, where in self._bar(referenced.items(), what):
            key = database.key(path)
            if key is None:
                self.report.add(what, "key", f"no feature {path} for {where}")
            elif not database.holds(key):
                detail = f"key {key.decode(errors='replace')} is in its list and has no value, for {where}"
                self.report.add(what, "value", detail)
            else:
                keys.append(key)
        rng = random.Random(f"check {what}")
        sampled = sorted(rng.sample(keys, min(self.samples, len(keys))))
        widths = self._values(database, what, has_boxes, sampled)
        held = f"{len(database.keys)} features" + (f" of width {widths}" if widths else "")
        self.report.rows.append((what, f"{held}, {len(referenced)} referenced, {len(sampled)} read"))

    def _values(self, database: FeatureDatabase, what: str, has_boxes: bool, keys: list[bytes]) -> str:
        widths: dict[int, bytes] = {}
        without_boxes: list[str] = []
        for key in self._bar(keys, f"{what}, values"):
            name = f"key {key.decode(errors='replace')}"
            try:
                value = database.read(key)
            except CloveError as error:
                self.report.add(what, "value", self._within(what, error))
                continue
            problem = value_problem(value, has_boxes)
            if problem:
                self.report.add(what, "value", f"{name}: {problem}")
                continue
            widths.setdefault(value["features"].shape[1], key)
            if has_boxes and "bbox" not in value:
                without_boxes.append(name)
        if without_boxes:
            self.report.notes.append(
                f"{what}: bbox is absent, boxes are zero, in {len(without_boxes)} of the {len(keys)} values read "
                f"(first {without_boxes[0]})"
            )
        if len(widths) > 1:
            each = ", ".join(f"{width} (key {key.decode(errors='replace')})" for width, key in widths.items())
            self.report.add(what, "width", f"features have different widths: {each}")
        return "/".join(map(str, widths))

    def _pretrained(self) -> None:
        """List the pretrained weights; absence is not a finding, because configurations may name other paths."""
        for what in PRETRAINED:
            self.report.rows.append((what, "present" if (self.root / what).exists() else "absent"))

    def _unusable(self, what: str, error: CloveError, more: str = "") -> None:
        self.report.rows.append((what, f"unusable{more}"))
        self.report.add(what, "file", self._within(what, error))

    def _within(self, what: str, error: CloveError) -> str:
        """Return the text of an error without the path with which the finding begins."""
        return str(error).removeprefix(str(self.root / what)).lstrip(":, ")

    def _bar(self, items: Any, label: str) -> Any:
        return tqdm(items, desc=label, unit="", leave=False, disable=not self.progress, file=sys.stderr)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the ``check`` command."""
    parser.add_argument("dir", nargs="?", metavar="DIR", help="the data root (default: $CLOVE_ROOT)")
    parser.add_argument("--setting", action="append", help="require this setting (may be repeated)")
    parser.add_argument("--samples", type=int, default=SAMPLES, help="feature values read from each database")
    parser.add_argument("--all", action="store_true", help=f"list more than {EXAMPLES} findings of one kind")


def run(args: argparse.Namespace) -> int:
    """Check a data root and print table and findings; return 1 if there are findings."""
    root = data_root.existing_root(args.dir)
    checker = Checker(root, args.setting or (), max(0, args.samples), progress=sys.stderr.isatty())
    report = checker.run()
    print(format_report(report, None if args.all else EXAMPLES))
    return 1 if report.count() else 0
