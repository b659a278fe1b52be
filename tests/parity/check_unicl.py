"""Compares UniVQA with results of the published code: ``python tests/parity/check_unicl.py FIXTURE.npz``

It builds MMF's model ``unicl`` with the sizes of the fixture and weights derived from their names, computes a
teacher-forced pass with gradients and greedy decoding on the fixture's batch, and prints the largest deviation of each
quantity with its tolerance. The exit code is 0 if all deviations are within their tolerances, otherwise 1.
"""

from __future__ import annotations

import argparse
import json
import sys
import warnings
import zlib
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import mmclvqa  # noqa: E402, F401  (makes `import mmf` work)

SCORE_TOLERANCE = 2e-3
LOSS_TOLERANCE = 1e-3
GRADIENT_TOLERANCE = 1e-2
#: Scores below this value are masked; their exact value does not matter.
MASKED_BELOW = -9000.0
#: Softmax does not depend on the bias of keys, so the gradient of this bias is zero up to rounding errors.
ZERO_GRADIENT = "attention.self.key.bias"
#: Gradient norms below this fraction of the largest one are compared relative to that fraction.
NOISE = 1e-6
BOS_INDEX = 1
NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


@dataclass
class Finding:
    """The result for one compared quantity."""

    name: str
    deviation: float
    tolerance: float
    note: str = ""

    @property
    def ok(self) -> bool:
        return self.deviation <= self.tolerance


def load_fixture(path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Return the configuration and the arrays of the fixture."""
    with np.load(path, allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
    return json.loads(str(arrays.pop("meta"))), arrays


def model_config(meta: dict[str, Any], arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    """Return ``model_config.unicl`` of a fixture, without dropout and weight files."""
    return {
        "text_bert": {**meta.get("text_bert", {}), **NO_DROPOUT},
        "text_bert_resize_token_ocr": True,
        "text_bert_source": None,
        "fc7": {"weights_file": None, "bias_file": None},
        "obj": {"in_dim": arrays["in_image_feature_0"].shape[2], "dropout_prob": 0.0},
        "ocr": {"dropout_prob": 0.0},
        "mmt": {**meta.get("mmt", {}), **NO_DROPOUT},
        "use_cls": bool(meta.get("use_cls", False)),
        "classifier": {"ocr_max_num": meta["ocr_max_num"]},
        "losses": [{"type": "m4c_decoding_bce_with_mask"}],
    }


def build_model(config: dict[str, Any], num_answers: int) -> nn.Module:
    """Build MMF's model ``unicl`` after making the registry entries that the data set otherwise makes."""
    from mmf.common.registry import registry
    from omegaconf import OmegaConf

    registry.register("config", OmegaConf.create({"datasets": "clvqa", "evaluation": {"predict": False}}))
    registry.register("clvqa_num_final_outputs", num_answers + config["classifier"]["ocr_max_num"])
    registry.register("clvqa_answer_processor", SimpleNamespace(BOS_IDX=BOS_INDEX))
    model = registry.get_model_class("unicl")(OmegaConf.create(config))
    model.build()
    model.init_losses()
    return model


@torch.no_grad()
def fill_weights(model: nn.Module) -> None:
    """Fill every floating-point tensor by a generator that is seeded with the CRC-32 of its name."""
    for name, tensor in model.state_dict().items():
        if not tensor.is_floating_point():
            continue
        random = np.random.RandomState(zlib.crc32(name.encode()) & 0x7FFFFFFF)
        value = (random.standard_normal(tuple(tensor.shape)) * 0.3).astype(np.float32)
        lower = name.lower()
        if name.endswith("weight") and ("layernorm" in lower or "layer_norm" in lower):
            value = value + 1
        tensor.copy_(torch.from_numpy(np.asarray(value, np.float32)))


def sample_list(arrays: dict[str, np.ndarray]) -> Any:
    """Return the fixture's inputs as MMF's SampleList with the fields of the data set ``clvqa``."""
    from mmf.common.sample import SampleList

    fields = {name[3:]: torch.from_numpy(array) for name, array in arrays.items() if name.startswith("in_")}
    batch = SampleList()
    objects, ocr = fields.pop("obj_num"), fields.pop("ocr_num")
    for name, tensor in fields.items():
        batch.add_field(name, tensor)
    batch.add_field("image_info_0", {"max_features": objects})
    batch.add_field("context_info_0", {"max_features": ocr})
    batch.dataset_name, batch.dataset_type = "clvqa", "train"
    return batch


def compare(path: Path) -> list[Finding]:
    """Run the fixture and compare every quantity in it."""
    meta, arrays = load_fixture(path)
    model = build_model(model_config(meta, arrays), meta["num_answers"])
    fill_weights(model)
    batch = sample_list(arrays)

    model.train()
    output = model(batch)
    (loss,) = output["losses"].values()
    loss.backward()
    expected = float(arrays["out_loss"])
    findings = [
        _scores("teacher-forced scores", output["scores"].detach().numpy(), arrays["out_teacher_forced_scores"]),
        Finding("loss (relative)", abs(loss.item() - expected) / max(abs(expected), 1e-12), LOSS_TOLERANCE),
        *_gradients(model, arrays),
    ]

    model.eval()
    with torch.no_grad():
        scores = model(batch)["scores"].numpy()
    findings.append(_scores("greedy scores", scores, arrays["out_greedy_scores"]))
    different = int((scores.argmax(-1) != arrays["out_greedy_argmax"]).sum())
    findings.append(Finding("greedy argmax (different)", different, 0, f"of {arrays['out_greedy_argmax'].size}"))
    return findings


def _scores(name: str, ours: np.ndarray, theirs: np.ndarray) -> Finding:
    if ours.shape != theirs.shape:
        return Finding(name, float("inf"), SCORE_TOLERANCE, f"shape {ours.shape} instead of {theirs.shape}")
    real = theirs > MASKED_BELOW
    masks_differ = int((real != (ours > MASKED_BELOW)).sum())
    if masks_differ:
        return Finding(name, float("inf"), SCORE_TOLERANCE, f"{masks_differ} scores masked on one side only")
    return Finding(name, float(np.abs(ours - theirs)[real].max()), SCORE_TOLERANCE, f"{(~real).sum()} masked")


def _gradients(model: nn.Module, arrays: dict[str, np.ndarray]) -> list[Finding]:
    parameters = dict(model.named_parameters())
    theirs = dict(zip(arrays["grad_names"].tolist(), arrays["grad_norms"].tolist(), strict=True))
    floor = NOISE * max(theirs.values())
    worst, worst_name, zero = 0.0, "", 0.0
    for name, norm in theirs.items():
        if name not in parameters:
            return [Finding("gradient norms (relative)", float("inf"), GRADIENT_TOLERANCE, f"the model has no {name}")]
        gradient = parameters[name].grad
        ours = 0.0 if gradient is None else gradient.double().norm().item()
        if name.endswith(ZERO_GRADIENT):
            zero = max(zero, ours / max(theirs.values()))
            continue
        deviation = abs(ours - norm) / max(norm, floor)
        if deviation >= worst:
            worst, worst_name = deviation, name
    unexpected = sorted(n for n, p in parameters.items() if n not in theirs and p.grad is not None and p.grad.any())
    return [
        Finding("gradient norms (relative)", worst, GRADIENT_TOLERANCE, f"{worst_name}, of {len(theirs)}"),
        Finding("key biases' gradients", zero, GRADIENT_TOLERANCE, "relative to the largest norm; exact value 0"),
        Finding("gradients not in the fixture", len(unexpected), 0, ", ".join(unexpected[:3])),
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("fixture", type=Path)
    path = parser.parse_args().fixture
    warnings.simplefilter("ignore")
    try:
        findings = compare(path)
    except (OSError, KeyError, ValueError) as error:
        print(f"error: {path}: {getattr(error, 'strerror', None) or error}", file=sys.stderr)
        return 1
    for finding in findings:
        verdict = "OK" if finding.ok else "FAIL"
        print(f"{verdict:4} {finding.name:30} {finding.deviation:9.2e}  ≤ {finding.tolerance:g}  {finding.note}")
    return 0 if all(finding.ok for finding in findings) else 1


if __name__ == "__main__":
    sys.exit(main())
