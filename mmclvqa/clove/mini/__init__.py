"""clove-mini: a seeded generator of a small CLOVE that uses every format of the real one."""
