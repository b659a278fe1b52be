"""Command line for scene-graph prompts; the sampling is :mod:`mmclvqa.clove.scene_graph_prompts`."""
