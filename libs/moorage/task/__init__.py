"""The subtask: chains of operators, sources, snapshots, exactly-once sinks; and the worker that runs them."""
