"""Command line for scene-graph prompts; the sampling is :mod:`mmclvqa.clove.prompts`."""
