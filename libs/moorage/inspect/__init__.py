"""Looks into checkpoints and savepoints, Moorage's and Flink's: what they consist of, whether they are whole, what the
rows of our state say.

::

    checkpoint ── open_checkpoint: location → metadata and StateFiles (bounded reads below one root)
    describe   ── metadata → CheckpointReport, for people and as JSON
    verify     ── every file: is it there, is it whole
    rows       ── keyed state → rows; export → JSON lines, Parquet

Nothing here changes anything, and nothing trusts a file: a hostile one costs an error that names it.
"""
