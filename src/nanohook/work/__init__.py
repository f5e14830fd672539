"""Background work: the loop, and a module a step."""
