"""What CLOVE's authors and MMF publish, and where each file of it goes.

The names of the files inside the published archives are not known here, so a file is recognised by its own
name wherever it lies in its archive. Replays and checkpoints belong to experiments, not to data: they go
below an experiment root, where the run scripts look for them.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import PurePosixPath

from mmclvqa.clove import layout
from mmclvqa.clove.errors import DataError, TaskError
from mmclvqa.clove.tasks import SETTINGS, order_index, parse_order, task

MMF_URL = "https://dl.fbaipublicfiles.com/mmf/data"
FASTTEXT_URL = "https://dl.fbaipublicfiles.com/pythia/pretrained_models/fasttext/wiki.en.bin"
CLOVE_URL = "https://github.com/showlab/CLVQA/releases/download/v1.0"
CLOVE_FILES_URL = "https://raw.githubusercontent.com/showlab/CLVQA/main/files"

Place = Callable[[PurePosixPath], str | None]
"""Where a file of an archive goes, relative to the source's root; None for one that is not wanted."""


@dataclass(frozen=True)
class Source:
    """One published file.

    Attributes:
        name: on the command line.
        what: it is, for people.
        url: where it is published.
        sha256: its published checksum, None where none is published.
        size: its length in bytes, None where it is not known.
        target: where it goes as it is; None for an archive.
        place: where the files of an archive go; None for a single file.
        wants: what an archive is searched for, for error messages.
        default: fetched when no names are given.
        experiments: its targets lie below the experiment root instead of the data root.
    """

    name: str
    what: str
    url: str
    sha256: str | None = None
    size: int | None = None
    target: str | None = None
    place: Place | None = None
    wants: str = ""
    default: bool = False
    experiments: bool = False


def _lmdb(target: str, path: PurePosixPath) -> str | None:
    """A database by its name, be it one file or a folder of files."""
    name = PurePosixPath(target).name
    if name not in path.parts:
        return None
    inner = path.parts[path.parts.index(name) + 1 :]
    return str(PurePosixPath(target, *inner)) if len(inner) <= 1 else None


def _named(targets: tuple[str, ...], path: PurePosixPath) -> str | None:
    """Files by their own names."""
    return next((target for target in targets if PurePosixPath(target).name == path.name), None)


def _annotation(suffix: str, path: PurePosixPath) -> str | None:
    """``fcl_mmf_<task>_<split>``."""
    match = re.fullmatch(rf"fcl_mmf_(.+)_(train|val)\.{suffix}", path.name)
    if match is None:
        return None
    for setting in SETTINGS:
        try:
            found = task(setting, match.group(1))
        except TaskError:
            continue
        if found.name == match.group(1):
            return str(PurePosixPath(found.annotation_path(match.group(2))).with_suffix(f".{suffix}"))
    return None


def _replay(setting: str, path: PurePosixPath) -> str | None:
    """``<order>_REPLAY[<p>]_AT[<c>].npy`` goes where SRM itself would have written it."""
    match = re.fullmatch(r"([a-z]{6})_REPLAY(\[.{1,2}\])?_AT\[.{1,2}\]\.npy", path.name)
    if match is None:
        return None
    try:
        parse_order(setting, match.group(1))
    except TaskError:
        return None
    folder = f"exp/clvqa/QAG_seq/not_use_gt/QAG_{setting}_task_token/distilgpt2_replay"
    return f"{folder}/distilgpt2_{setting}_{match.group(1)}/{path.name}"


def _checkpoint(setting: str, order: str) -> str:
    """Where training the last task of an order with rate 1.5 would have written its weights."""
    last = parse_order(setting, order)[-1].name
    run = f"setting_{order_index(setting, order)}_{order}/distilgpt2_replay_qag_seq_not_use_gt_task_token_1.5"
    return f"exp/clvqa/save/{setting}/{run}/unicl_{last}/unicl_final.pth"


SOURCES: tuple[Source, ...] = (
    Source(
        name="vocabulary",
        what="answer vocabulary",
        url=f"{CLOVE_FILES_URL}/clvqa_answer_6k.txt",
        sha256="1a97f1167fe9ea02dd251e0ff4d6ba634699091ff0a917d7568584d18558eebf",
        size=41_128,
        target=layout.VOCABULARY,
        default=True,
    ),
    Source(
        name="prompts-scene",
        what="scene-graph prompts, scene setting",
        url=f"{CLOVE_FILES_URL}/stage_sg_scene_setting_50u-50c.json",
        sha256="c328eeec4061ace3c3ca9271b9cf924695d1eb4833e2db591cfbe4ed95bc6161",
        size=3_640_477,
        target=layout.prompts_path("scene"),
        default=True,
    ),
    Source(
        name="clove",
        what="CLOVE annotations (.npy)",
        url=f"{CLOVE_URL}/CLOVE-npy.zip",
        place=partial(_annotation, "npy"),
        wants="fcl_mmf_<task>_<train|val>.npy",
        default=True,
    ),
    Source(
        name="gqa-features",
        what="object features of GQA",
        url=f"{MMF_URL}/datasets/gqa/defaults/features/features.tar.gz",
        sha256="530e62e398faa5c9f2d4f7edc2223cce4a679b2837fa4252976f0eff4127f9ce",
        place=partial(_lmdb, layout.GQA_FEATURES),
        wants=PurePosixPath(layout.GQA_FEATURES).name,
        default=True,
    ),
    Source(
        name="textvqa-features",
        what="object features of TextVQA",
        url=f"{MMF_URL}/datasets/textvqa/defaults/features/features.tar.gz",
        sha256="960f69c651f5c6532b4e9d8310597aa8d21c65074768c9702ea822e4b2867a0d",
        place=partial(_lmdb, layout.TEXTVQA_FEATURES),
        wants=PurePosixPath(layout.TEXTVQA_FEATURES).name,
        default=True,
    ),
    Source(
        name="textvqa-ocr-features",
        what="OCR token features of TextVQA",
        url=f"{MMF_URL}/datasets/textvqa/ocr_en/features/features.tar.gz",
        sha256="3542dff9338540ff2add59bb2db290d9ea5f82a4f21ab07fe39351a82b699ee0",
        place=partial(_lmdb, layout.TEXTVQA_OCR_FEATURES),
        wants=PurePosixPath(layout.TEXTVQA_OCR_FEATURES).name,
        default=True,
    ),
    Source(
        name="fc7",
        what="weights of the detector's fc7 layer",
        url=f"{MMF_URL}/models/detectron/vmb_weights.tar.gz",
        sha256="582d85748b2df60e3c6e045b8213c0fd7084054483a3388c55aed5b25bbc3c93",
        place=partial(_named, (layout.FC7_WEIGHT, layout.FC7_BIAS)),
        wants="fc7_w.pkl and fc7_b.pkl",
        default=True,
    ),
    Source(
        name="fasttext",
        what="fastText vectors of English",
        url=FASTTEXT_URL,
        target=layout.FASTTEXT,
        default=True,
    ),
    Source(
        name="clove-json",
        what="CLOVE annotations (.json)",
        url=f"{CLOVE_URL}/CLOVE-json.zip",
        place=partial(_annotation, "json"),
        wants="fcl_mmf_<task>_<train|val>.json",
    ),
    Source(
        name="replays-functional",
        what="SRM's replays, functional setting",
        url=f"{CLOVE_URL}/function_distilgpt2_replay.zip",
        place=partial(_replay, "functional"),
        wants="<order>_REPLAY[<task>]_AT[<task>].npy",
        experiments=True,
    ),
    Source(
        name="replays-scene",
        what="SRM's replays, scene setting",
        url=f"{CLOVE_URL}/secne_distilgpt2_replay.zip",  # published under this spelling
        place=partial(_replay, "scene"),
        wants="<order>_REPLAY[<task>]_AT[<task>].npy",
        experiments=True,
    ),
    *(
        Source(
            name=f"checkpoint-{setting}",
            what=f"UniVQA after {order}, {setting} setting, replay rate 1.5",
            url=f"{CLOVE_URL}/{word}_{order}_distilgpt2_replay_qag_seq_not_use_gt_task_token_1.5_unicl_final.pth",
            target=_checkpoint(setting, order),
            experiments=True,
        )
        for setting, word, order in (("functional", "function", "oarlks"), ("scene", "scene", "abcdef"))
    ),
)
"""Everything published, in the order fetched."""


def select(names: list[str], sources: tuple[Source, ...] = SOURCES) -> list[Source]:
    """The sources of these names: those fetched by default when there are none, all for ``all``.

    Raises:
        DataError: an unknown name; the message lists the known ones.
    """
    if names == ["all"]:
        return list(sources)
    known = {source.name: source for source in sources}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise DataError(f"nothing named {', '.join(unknown)} to fetch; there are {', '.join(known)} and all")
    return [known[name] for name in dict.fromkeys(names)] or [s for s in sources if s.default]
