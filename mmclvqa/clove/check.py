"""Verify a data root: files, records, features, vocabulary, prompts and the manifest's numbers.

A setting is looked at when any of its annotation files is there, when the manifest names it, or when
``--setting`` asks for it; then all its files must be there. A root with neither setting is a finding. What is read
although it departs from the published form is noted and is no finding.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tqdm import tqdm

from mmclvqa.clove import layout
from mmclvqa.clove.annotations import describe, read_annotations, record_problems
from mmclvqa.clove.coercion import Coercions
from mmclvqa.clove.errors import CloveError
from mmclvqa.clove.features import FeatureDatabase, databases, feature_path, has_image, value_problem
from mmclvqa.clove.manifest import SPLITS, Manifest, load_manifest
from mmclvqa.clove.prompts import load_prompts
from mmclvqa.clove.report import EXAMPLES, Report, format_report
from mmclvqa.clove.tasks import SETTINGS, Task, tasks
from mmclvqa.clove.vocabulary import PUBLISHED_SIZE, load_vocabulary

SAMPLES = 32
"""How many feature values of each database are read."""


class Checker:
    """One walk over a data root.

    Args:
        root: the data root.
        settings: the settings that must be there; none given, those that are there.
        samples: how many feature values of each database are read.
        progress: show progress bars on stderr.
    """

    def __init__(self, root: Path, settings: Iterable[str] = (), samples: int = SAMPLES, progress: bool = False):
        self.root = root
        self.asked = tuple(settings)
        self.samples = samples
        self.progress = progress
        self.report = Report()
        self._published_sizes = True
        # By database and feature path, the first record that wants it.
        self._wanted: dict[str, dict[str, str]] = defaultdict(dict)

    def run(self) -> Report:
        """Look at everything; never raises for what is wrong with the data."""
        manifest = self._manifest()
        self._vocabulary()
        present = [setting for setting in SETTINGS if self._is_present(setting, manifest)]
        for setting in SETTINGS:
            if setting in present:
                self._setting(setting, manifest)
            else:
                self.report.rows.append((setting, "not asked for" if self.asked else "not here"))
        if not present:
            self.report.add(str(self.root), "setting", "has annotations of neither setting")
            self.report.rows.append((str(self.root), "no annotations"))
        for database, wanted in self._wanted.items():
            self._database(database, wanted)
        self._pretrained()
        return self.report

    def _manifest(self) -> Manifest | None:
        try:
            manifest = load_manifest(self.root)
        except CloveError as error:
            self._unusable(layout.MANIFEST, error)
            self._published_sizes = False
            return None
        self._published_sizes = manifest is None
        holds = f"{manifest.name}, seed {manifest.seed}" if manifest else "none: sizes of published CLOVE"
        self.report.rows.append((layout.MANIFEST, holds))
        return manifest

    def _vocabulary(self) -> None:
        what = layout.VOCABULARY
        try:
            words = load_vocabulary(self.root / what)
        except CloveError as error:
            self._unusable(what, error)
            return
        self.report.rows.append((what, f"{len(words)} answer words"))
        if self._published_sizes and len(words) != PUBLISHED_SIZE:
            self.report.add(what, "size", f"{len(words)} lines, CLOVE's vocabulary has {PUBLISHED_SIZE}")

    def _is_present(self, setting: str, manifest: Manifest | None) -> bool:
        if self.asked:
            return setting in self.asked
        if manifest is not None and setting in manifest.tasks:
            return True
        known = tasks(setting).values()
        return any(layout.annotation_file(self.root, task, split) for task in known for split in SPLITS)

    def _setting(self, setting: str, manifest: Manifest | None) -> None:
        in_manifest = manifest.tasks.get(setting, {}) if manifest else {}
        known = list(tasks(setting).values())
        # Generated data may have fewer tasks than the setting; its manifest says which.
        expected = [task for task in known if task.name in in_manifest] or known
        if manifest and not in_manifest:
            self.report.add(layout.MANIFEST, "setting", f"does not name the {setting} setting")
        for task in expected:
            published = {"train": task.train_size, "val": task.val_size} if self._published_sizes else {}
            sizes = in_manifest.get(task.name, published)
            for split in SPLITS:
                self._annotations(task, split, sizes.get(split))
        self._prompts(setting, expected)

    def _annotations(self, task: Task, split: str, expected: int | None) -> None:
        what = task.annotation_path(split)
        path = layout.annotation_file(self.root, task, split)
        if path is None:
            self.report.add(what, "file", "there is no such file, nor a .json in its place")
            self.report.rows.append((what, "missing"))
            return
        what = str(path.relative_to(self.root))
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
        if expected is not None and len(records) != expected:
            self.report.add(what, "size", f"{len(records)} records instead of {expected}")

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
            problem = f"is {record['feature_path']!r}, no path that ends in .npy"
            self.report.add(what, "feature path", f"{describe(record, where)}: field feature_path {problem}")
            return
        for database in databases(record["image_source"]):
            self._wanted[database].setdefault(path, f"{what}, {describe(record, where)}")

    def _prompts(self, setting: str, expected: list[Task]) -> None:
        what = layout.prompts_path(setting)
        try:
            prompts = load_prompts(self.root / what, setting)
        except CloveError as error:
            self._unusable(what, error)
            return
        self.report.rows.append((what, f"{sum(map(len, prompts.values()))} prompts"))
        for task in expected:
            if not prompts.get(task.name):
                self.report.add(what, "task", f"has no prompt for task {task.name}")

    def _database(self, what: str, wanted: dict[str, str]) -> None:
        try:
            database = FeatureDatabase(self.root / what)
        except CloveError as error:
            self._unusable(what, error, f", {len(wanted)} images want it")
            return
        with database:
            found = []
            for path, where in self._bar(wanted.items(), what):
                key = database.key(path)
                if key is None:
                    self.report.add(what, "key", f"no feature {path} for {where}")
                elif not database.holds(key):
                    detail = f"key {key.decode(errors='replace')} is in its list and has no value, for {where}"
                    self.report.add(what, "value", detail)
                else:
                    found.append(key)
            draw = random.Random(f"check {what}")
            sampled = sorted(draw.sample(found, min(self.samples, len(found))))
            widths = self._values(database, what, sampled)
        held = f"{len(database.keys)} features" + (f" of width {widths}" if widths else "")
        self.report.rows.append((what, f"{held}, {len(wanted)} wanted, {len(sampled)} read"))

    def _values(self, database: FeatureDatabase, what: str, keys: list[bytes]) -> str:
        has_boxes = what != layout.TEXTVQA_OCR_FEATURES
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
        """Say what pretrained weights are here; configs may name other places, so absence is no finding."""
        for what in (layout.BERT, layout.DISTILGPT2, layout.FASTTEXT, layout.FC7_WEIGHT, layout.FC7_BIAS):
            self.report.rows.append((what, "here" if (self.root / what).exists() else "not here"))

    def _unusable(self, what: str, error: CloveError, more: str = "") -> None:
        self.report.rows.append((what, f"unusable{more}"))
        self.report.add(what, "file", self._within(what, error))

    def _within(self, what: str, error: CloveError) -> str:
        """The error's text without the path that the finding begins with anyway."""
        return str(error).removeprefix(str(self.root / what)).lstrip(":, ")

    def _bar(self, items: Any, label: str) -> Any:
        return tqdm(items, desc=label, unit="", leave=False, disable=not self.progress, file=sys.stderr)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of ``check``."""
    parser.add_argument("dir", nargs="?", metavar="DIR", help="the data root (default: $CLOVE_ROOT)")
    parser.add_argument("--setting", action="append", choices=SETTINGS, help="must be there (may be repeated)")
    parser.add_argument("--samples", type=int, default=SAMPLES, help="feature values read of each database")
    parser.add_argument("--all", action="store_true", help=f"list more than {EXAMPLES} findings of one kind")


def run(args: argparse.Namespace) -> int:
    """Check a data root, print table and findings; 1 if there are findings."""
    root = layout.existing_root(args.dir)
    checker = Checker(root, args.setting or (), max(0, args.samples), progress=sys.stderr.isatty())
    report = checker.run()
    print(format_report(report, None if args.all else EXAMPLES))
    return 1 if report.count() else 0
