"""What a snapshot brings to be stored."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from moorage.state.handles import FileHandle


@dataclass(frozen=True, slots=True)
class StatePiece:
    """State that must be durable before the checkpoint is acknowledged."""

    name: str
    """Tells it from the other pieces of the subtask; part of a file's name."""
    shared: bool
    """Later checkpoints may refer to it."""
    data: bytes | Path | FileHandle
    """Path: a local file, which must stay until the snapshot is finished or aborted. FileHandle: it is stored."""
    inline: bool = True
    """It may lie in the metadata, of every checkpoint that refers to it, when it is small. A local file never does."""
    carried_bytes: int = 0
    """Of earlier pieces that lie in the metadata and that the state refers to besides this one."""

    @property
    def size_bytes(self) -> int:
        """*Blocking* for a file."""
        match self.data:
            case bytes():
                return len(self.data)
            case Path():
                return self.data.stat().st_size
            case FileHandle():
                return self.data.size_bytes
