"""Freezes the present schemas as those of a released version.

``python -m moorage.serde.release_schemas 0.1`` copies them to ``schemas/released/0.1``. Done once for each version in
which a schema differs from the newest released ones, before the version is published; until then the folder may be
deleted and made again. From then on the copies are never changed, and ``tests/compatibility/schemas`` holds every later
schema against them.
"""

from __future__ import annotations

import re
import shutil
import sys
from hashlib import sha256
from pathlib import Path

from moorage.errors import MoorageError
from moorage.serde.schemas import CHECKSUMS_FILE, RELEASED_FOLDER, schema_files, schemas_folder


def release(folder: Path, version: str) -> Path:
    """Freeze the schemas in ``folder`` as ``version``; the new folder. A version that exists is never replaced."""
    if not re.fullmatch(r"\d+\.\d+", version):
        raise MoorageError(f"version {version!r} must have the form <major>.<minor>")
    target = folder / RELEASED_FOLDER / version
    if target.exists():
        raise MoorageError(f"schemas of {version} are frozen already; a change of a schema belongs to a later version")
    for path in schema_files(folder):
        copy = target / path.relative_to(folder)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)
    (target / CHECKSUMS_FILE).write_text(checksums(target), "utf-8")
    return target


def checksums(released: Path) -> str:
    """What the checksum file of a released version must hold; ``sha256sum --check`` reads it too."""
    return "".join(
        f"{sha256(path.read_bytes()).hexdigest()}  {path.relative_to(released).as_posix()}\n"
        for path in schema_files(released)
    )


if __name__ == "__main__":
    try:
        (requested,) = sys.argv[1:]
        sys.stdout.write(f"{release(schemas_folder(), requested)}\n")
    except ValueError:
        sys.exit("usage: python -m moorage.serde.release_schemas VERSION")
    except MoorageError as error:
        sys.exit(str(error))
