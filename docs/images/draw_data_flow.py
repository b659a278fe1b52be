"""Draws data_flow.png: ``python docs/images/draw_data_flow.py``."""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

BOXES = {
    "clove": (0.8, 2.6, "CLOVE task k\nimages, questions,\nscene graphs"),
    "prompts": (0.8, 0.6, "Scene-graph prompts\nof tasks 1 … k−1"),
    "srm": (4.2, 0.6, "SRM\nlanguage model,\nlearns along"),
    "replays": (7.6, 0.6, "Replays\npseudo scene graph,\nquestion, answer"),
    "univqa": (7.6, 2.6, "UniVQA\ntrained on task k\n+ replays"),
    "weights": (11.0, 2.6, "Weights after\ntask k"),
    "matrix": (11.0, 0.6, "Accuracy matrix,\nforgetting,\nreport"),
}
ARROWS = (
    ("clove", "univqa"), ("clove", "srm"), ("prompts", "srm"), ("srm", "replays"), ("replays", "univqa"),
    ("univqa", "weights"), ("weights", "matrix"),
)  # fmt: skip
COLORS = {"clove": "#e8eef7", "prompts": "#e8eef7", "srm": "#fde8d4", "replays": "#fde8d4", "univqa": "#dff0df"}
HALF_WIDTH, HALF_HEIGHT = 1.38, 0.62


def main() -> None:
    """Draw the boxes and arrows."""
    figure, axes = plt.subplots(figsize=(10, 3.4))
    for name, (x, y, text) in BOXES.items():
        style = {"boxstyle": "round,pad=0.06", "facecolor": COLORS.get(name, "#f2f2f2"), "edgecolor": "#555555"}
        corner = (x - HALF_WIDTH, y - HALF_HEIGHT)
        axes.add_patch(matplotlib.patches.FancyBboxPatch(corner, 2 * HALF_WIDTH, 2 * HALF_HEIGHT, **style))
        axes.text(x, y, text, ha="center", va="center", fontsize=9.5)
    for start, end in ARROWS:
        (x0, y0, _), (x1, y1, _) = BOXES[start], BOXES[end]
        if x0 == x1:
            step = HALF_HEIGHT + 0.08 if y1 > y0 else -HALF_HEIGHT - 0.08
            ends = ((x0, y0 + step), (x1, y1 - step))
        else:
            ends = ((x0 + HALF_WIDTH + 0.08, y0), (x1 - HALF_WIDTH - 0.08, y1))
        axes.annotate("", xy=ends[1], xytext=ends[0], arrowprops={"arrowstyle": "-|>", "color": "#333333", "lw": 1.3})
    axes.set_xlim(-0.8, 12.6)
    axes.set_ylim(-0.3, 3.5)
    axes.axis("off")
    figure.savefig(Path(__file__).with_name("data_flow.png"), dpi=110, bbox_inches="tight", metadata={"Software": None})


if __name__ == "__main__":
    main()
