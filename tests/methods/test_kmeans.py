"""K-means replay."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from method_runs import Captured, Methods
from mmf.utils.distributed import byte_tensor_to_object

from mmclvqa.clove.records import load_records
from mmclvqa.methods import kmeans_replay
from mmclvqa.methods.kmeans_replay import nearest_to_centres
from mmclvqa.training.loading import prepare

RATE = 0.25
WORDS = (
    "model_config.unicl.use_cls=True",
    "training.callbacks=[{'type':'captured'}]",
    "training.CL.use_replay=True",
    "training.CL.replay_method=kmeans",
    f"training.CL.replay_rate={RATE}",
)


@pytest.mark.filterwarnings("ignore:Number of distinct clusters")
def test_the_nearest_record_of_each_centre_is_taken() -> None:
    draws = np.random.default_rng(0)
    centres = np.eye(4, 6) * 10
    features = (centres[:, None] + draws.normal(size=(4, 9, 6))).reshape(-1, 6)
    clusters = features.reshape(4, 9, 6)
    distances = np.linalg.norm(clusters - clusters.mean(axis=1, keepdims=True), axis=-1)
    nearest = (9 * np.arange(4) + distances.argmin(axis=1)).tolist()
    assert nearest_to_centres(features, 4) == nearest
    assert nearest_to_centres(features, 40) == list(range(36)) and nearest_to_centres(features, 0) == []
    assert len(set(nearest_to_centres(np.zeros((5, 2)), 3))) == 3


def test_records_are_kept_along_the_order(methods: Methods, monkeypatch: pytest.MonkeyPatch) -> None:
    selections: list[tuple[np.ndarray, list[int]]] = []

    def recorded(features: np.ndarray, count: int) -> list[int]:
        selections.append((features, nearest_to_centres(features, count)))
        return selections[-1][1]

    monkeypatch.setattr(kmeans_replay, "nearest_to_centres", recorded)
    first = methods.learn("object", *WORDS)
    kept = load_records(first / "kmeans_replay.npy")
    assert len(kept) == int(64 * RATE) == methods.stored("object")["records"]

    trainer = Captured.trainer
    outputs: dict[str, np.ndarray] = {}
    with torch.no_grad():
        for _, batch, dataset in trainer.splits["train"].evaluation_batches():
            batch = prepare(batch, dataset)
            names = map(byte_tensor_to_object, batch.question_id)
            outputs |= zip(names, trainer.network.train()(batch)["cls_output"].numpy(), strict=True)
    ((features, indices),) = selections
    np.testing.assert_allclose(features, [outputs[name] for name in sorted(outputs)], rtol=1e-3, atol=1e-4)
    assert {record["question_id"] for record in kept} == {sorted(outputs)[index] for index in indices}

    second = methods.learn("attribute", *WORDS, f"training.CL.replay_dir={first}", methods.resume_file("object"))
    assert "16 replays are added to 64 real records of attribute (16 of object)" in (second / "train.log").read_text()
    both = load_records(second / "kmeans_replay.npy")
    assert Counter(record["stage"] for record in both) == {"object": 8, "attribute": 8}
    assert {r["question_id"] for r in both if r["stage"] == "object"} < {r["question_id"] for r in kept}
    methods.learn("relation", *WORDS, f"training.CL.replay_dir={second}", methods.resume_file("attribute"))
    third = load_records(methods.save_dir("relation") / "kmeans_replay.npy")
    stages = Counter(record["stage"] for record in third)
    # A third of the buffer of 16 is for the current task, and what remains for the earlier ones together.
    assert stages["relation"] == 5 and stages["object"] + stages["attribute"] == 11 and min(stages.values()) > 0
    assert {r["question_id"] for r in third if r["stage"] != "relation"} < {r["question_id"] for r in both}


def test_the_callback_may_be_named_and_does_nothing_for_other_methods(methods: Methods) -> None:
    named = "training.callbacks=[{'type':'kmeans_store','params':{}}]"
    folder = methods.learn("object", named)
    assert not (folder / "kmeans_replay.npy").exists()
    folder = methods.learn("object", *WORDS, named, name="named")
    assert len(load_records(folder / "kmeans_replay.npy")) == int(64 * RATE)


def test_a_run_killed_before_its_final_weights_keeps_the_same_records(methods: Methods) -> None:
    masked = ("dataset_config.clvqa.use_mask_img=True", "dataset_config.clvqa.mask_img_prob=0.5")
    folder = methods.learn("object", *WORDS, *masked, "training.max_updates=9")
    before = (folder / "kmeans_replay.npy").read_bytes()
    (folder / "unicl_final.pth").unlink()
    methods.learn("object", *WORDS, *masked, "training.max_updates=9")
    assert (folder / "kmeans_replay.npy").read_bytes() == before
