"""Looks into checkpoints and savepoints, Moorage's and Flink's: what they consist of, whether they are whole, what the
rows of our state say.

::

    checkpoint ── open_checkpoint: location → metadata and StateFiles (bounded reads below one root)
    describe   ── metadata → CheckpointReport, for people and as JSON
    verify     ── every file: is it there, is it whole
    table      ── state of an operator → records (rows of keys, elements of lists); export → JSON lines, Parquet

Nothing here changes anything, and nothing trusts a file: a hostile one costs an error that names it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any


def read_state(
    path: str, uid: str, *, root: str | None = None, options: Mapping[str, Any] | None = None
) -> Iterator[dict[str, Any]]:
    """The state of an operator in a checkpoint or savepoint: one dict per key with ``key``, ``key_group``, the fields
    of its row, and its states (a ListState as list, a MapState as dict). Of an operator without keys, one dict per
    element of its lists with ``state``, ``subtask``, ``index`` and ``value``.

    ``path`` is a ``_metadata`` file or its folder, local or a URL (``s3://bucket/orders/chk-7``); ``root`` the storage
    in which the files lie, where the folder does not tell; ``options`` those of obstore for that kind of store. The
    class of the state is not needed: Structs come as dicts. Entries whose time to live is over may still be there.

    Raises ObjectMissingError, StorageError, SettingError, StateError (no such operator, or not Moorage's state), and
    CorruptDataError that names the file.

    ::

        frame = polars.DataFrame(mo.read_state("checkpoints/orders/chk-7", "totals"))
    """
    # Not when this module is imported: pipelines import moorage, and need no client of an object store for that.
    from moorage.inspect.checkpoint import open_checkpoint
    from moorage.inspect.table import OperatorTable

    return OperatorTable(open_checkpoint(path, root=root, options=options), uid).records()
