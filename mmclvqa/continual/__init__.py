"""The continual-learning methods that symbolic replay is compared with, one file each.

``ewc`` and ``mas`` say what makes a parameter important; ``regularizer`` trains with that (trainer ``CL``). ``gem``
changes gradients (trainer ``GEM``), ``kmeans`` chooses records to keep (callback ``kmeans_store``). Random replay and
SRM's replays change the data alone: :mod:`mmclvqa.datasets.replay`.
"""

# As in mmclvqa.trainers: importing MMF imports the plugin's modules, which has to be over before one is asked for.
import mmf  # noqa: F401
