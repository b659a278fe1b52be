"""clove-mini: a seeded generator of a small CLOVE in every format of the real one, and a judge of replays."""
