"""Where the files of a checkpoint may lie when it is restored.

A ``_metadata`` that somebody hands in may name any file: of another bucket, of the machine that reads it, of a server
that only the workers can reach. What is read comes back as state, in the next checkpoint and in results. So nothing is
read but what lies in the folder of the ``_metadata`` or in the checkpoint storage, which is all that Moorage ever
writes: savepoints refer to nothing outside of themselves, checkpoints to nothing outside of the checkpoint storage.
"""

from __future__ import annotations

from moorage.errors import StateError, StorageError
from moorage.naming import check_storage_path, is_url
from moorage.state.operator_state import CheckpointMetadata


def check_places(metadata: CheckpointMetadata, folder: str) -> None:
    """StateError that names operator and file unless every file lies where it may.

    ``folder``: where the ``_metadata`` lies, as a URL or relative to the checkpoint storage, and against which its
    relative paths were resolved. Paths are compared as they are written: another way to write the same place
    (``file:/a``, ``%2e%2e``, ``a/../b``) is refused, for each kind of storage reads it in its own way.
    """
    for operator in metadata.operators:
        for path in operator.paths():
            if not _is_inside(path, folder):
                where = f"in {folder}" if is_url(folder) else "in its folder"
                raise StateError(
                    f"operator {str(operator.uid or operator.operator)!r}: its state is said to lie in {path!r}, which"
                    f" is neither {where} nor a path of the checkpoint storage, so it is not read. A savepoint is one"
                    " folder: copy all of it to where it should be, and restore it from there; a checkpoint is restored"
                    " in the storage that it was written to"
                )


def _is_inside(path: str, folder: str) -> bool:
    if is_url(path):
        if not is_url(folder) or not path.startswith(f"{folder}/"):
            return False
        path = path.removeprefix(f"{folder}/")
    try:
        check_storage_path(path)
    except StorageError:
        return False
    return True
