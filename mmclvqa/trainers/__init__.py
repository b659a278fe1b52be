"""The training loop registered with MMF as trainer ``mmf``, and what it is made of.

``mmf_trainer`` is the loop; ``loaders`` make its batches, ``optimization`` its optimizer and schedule,
``evaluation`` its metrics, ``checkpoint`` its files; ``callbacks`` is where other methods hook in.
"""

# Importing MMF imports the plugin's modules. When one of this package is asked for first, that has to
# be over before it begins, or the two would wait for each other.
import mmf  # noqa: F401
