"""What the figures show lies within them."""

from __future__ import annotations

import io

import matplotlib.image
import numpy as np
import pytest

from mmclvqa.evaluation.figures import Picture, comparison_picture, course_picture, matrix_picture, training_picture
from mmclvqa.evaluation.history import Curve
from mmclvqa.evaluation.outcome import Sweep

LONG = "SRM (distilgpt2, 1.5 replays per real record, true scene graphs, no task token), oarlks"


def edges(picture: Picture) -> np.ndarray:
    """The outermost columns of pixels, 0 black to 1 white."""
    image = matplotlib.image.imread(io.BytesIO(picture.png))
    return image[:, [0, 1, -2, -1], :3]


@pytest.mark.parametrize("label", ["SRM 1.5", "random replay (0.02, images withheld), oarlks", LONG])
def test_nothing_is_cut_off_at_the_sides(label: str, published: Sweep) -> None:
    curve = Curve("object", (100, 200), (0.5, 1.0), None)
    pictures = [
        matrix_picture("name", label, published),
        course_picture("name", label, published),
        training_picture("name", label, [curve]),
        comparison_picture([label, "chance"], [0.9, 0.1], [0.5, float("nan")]),
    ]
    for picture in pictures:
        assert edges(picture).min() == 1, picture.title
