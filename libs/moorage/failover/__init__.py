"""When and whether a failed job is started again. Pure deciders."""
