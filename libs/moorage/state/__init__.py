"""State as data: key groups, handles, what a checkpoint holds, and who gets which part of it at a restore."""
