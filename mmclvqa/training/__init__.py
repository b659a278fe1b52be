"""Training and evaluation: MMF's trainer ``mmf``.

``trainer`` has the training loop and ``base`` the setup and evaluation of a run. ``loading`` builds batches,
``optimization`` the optimizer, schedule and early stopping, ``evaluation`` computes metrics and writes results and
predictions, and ``checkpoints`` reads and writes checkpoints.
"""

# Importing MMF imports the plugin's modules. If a module of this package is imported first, MMF must be imported before
# it; otherwise the imports would be circular.
import mmf  # noqa: F401
