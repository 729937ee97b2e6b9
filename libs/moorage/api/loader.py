"""Importing pipelines by reference: ``package.module:attribute`` or ``path/to/file.py:attribute``."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from zlib import crc32

from moorage.api.compiler import CompiledPipeline, compile_pipeline
from moorage.api.pipeline import Pipeline
from moorage.api.traces import user_place
from moorage.errors import PipelineError, UserCodeError


def load_pipeline(ref: str) -> CompiledPipeline:
    """Import and compile. PipelineError names what can't be found or run; UserCodeError has the user's own error as its
    cause, when importing their code raised."""
    name, _, attribute = ref.rpartition(":")
    if not name or not attribute:
        raise PipelineError(f"{ref!r} does not name a pipeline: use MODULE:ATTRIBUTE or FILE.py:ATTRIBUTE")
    module = _import_file(name) if name.endswith(".py") else _import_module(name)
    pipeline = getattr(module, attribute, None)
    if pipeline is None:
        found = [n for n, value in vars(module).items() if isinstance(value, Pipeline)]
        hint = f"; it has the pipeline {' and '.join(found)}" if found else ""
        raise PipelineError(f"{name} has no attribute {attribute!r}{hint}")
    if not isinstance(pipeline, Pipeline):
        raise PipelineError(f"{ref} is a {type(pipeline).__name__}, not a moorage.Pipeline")
    return compile_pipeline(pipeline, absolute_ref(ref))


def absolute_ref(ref: str) -> str:
    """The reference as another process on the same files can use it: a file by its absolute path."""
    name, _, attribute = ref.rpartition(":")
    return f"{Path(name).resolve()}:{attribute}" if name.endswith(".py") else ref


def _import_module(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(f"{error.name}.")):
            raise PipelineError(
                f"module {name!r} can't be found: is its folder on the Python path (MOORAGE_PIPELINE_PATH)?"
            ) from error
        raise UserCodeError(f"importing {name} failed: {error}") from error
    except PipelineError as error:
        raise _placed(error) from error
    except (Exception, SystemExit) as error:
        raise UserCodeError(f"importing {name} failed: {type(error).__name__}: {error}") from error


def _placed(error: PipelineError) -> PipelineError:
    """The same, beginning with the line of the user's file that made the mistake."""
    place = user_place(error)
    return error if place is None else PipelineError(f"{place}: {error}")


def _import_file(name: str) -> ModuleType:
    path = Path(name).resolve()
    if not path.is_file():
        raise PipelineError(f"file {path} does not exist")
    # Files of the same name may lie in several folders.
    module_name = f"moorage_pipeline_{path.stem}_{crc32(str(path).encode()):08x}"
    spec = importlib.util.spec_from_file_location(module_name, path)
    if spec is None or spec.loader is None:
        raise PipelineError(f"file {path} is not a Python module")
    folder = str(path.parent)
    if folder not in sys.path:
        sys.path.insert(0, folder)  # so that the file can import what lies beside it, as `python file.py` lets it
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module  # dataclasses and msgspec resolve annotations through it
    try:
        spec.loader.exec_module(module)
    except PipelineError as error:
        del sys.modules[module_name]
        raise _placed(error) from error
    except (Exception, SystemExit) as error:  # a script that runs something and exits when it is imported
        del sys.modules[module_name]
        raise UserCodeError(f"importing {path} failed: {type(error).__name__}: {error}") from error
    return module
