"""The job as a graph of vertices and exchanges, and what a checkpoint of it must cover."""
