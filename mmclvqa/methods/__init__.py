"""Continual-learning methods, one file each; :mod:`mmclvqa.methods.base` is the interface.

Importing this package registers the methods of the project in the order in which the comparison lists them. It does not
import MMF.
"""
# ruff: noqa: F401, I001

from mmclvqa.methods import bounds
from mmclvqa.methods import finetuning
from mmclvqa.methods import ewc
from mmclvqa.methods import online_ewc
from mmclvqa.methods import mas
from mmclvqa.methods import gem
from mmclvqa.methods import agem
from mmclvqa.methods import random_replay
from mmclvqa.methods import kmeans_replay
from mmclvqa.methods import derpp
from mmclvqa.methods import symbolic_replay
