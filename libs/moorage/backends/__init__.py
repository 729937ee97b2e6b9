"""State backends: where live keyed state is, and how it becomes part of a checkpoint."""
