"""Pipelines are found by module or file; whatever is in the way is named, the user's own error first."""

from __future__ import annotations

import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

import moorage as mo
from moorage.api.loader import absolute_ref, load_pipeline
from moorage.errors import PipelineError, UserCodeError

PIPELINE = """
from __future__ import annotations
import dataclasses
import moorage as mo

@dataclasses.dataclass
class Order:
    user: str

pipeline = mo.Pipeline({name!r})
other = mo.Pipeline("other")
number = 5
pipeline.source("orders", mo.KafkaSource("orders", value=mo.Json(Order))).sink("copies", mo.KafkaSink("c", key="user"))
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setattr(sys, "path", [*sys.path])
    before = set(sys.modules)
    yield tmp_path
    for name in sys.modules.keys() - before:
        del sys.modules[name]


def written(folder: Path, text: str, name: str = "flow.py") -> str:
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    return str(path)


def test_a_file(folder: Path) -> None:
    path = written(folder, PIPELINE.format(name="orders"))
    graph = load_pipeline(f"{path}:pipeline").graph
    assert graph.job == "orders"
    assert graph.pipeline_ref == f"{path}:pipeline"


def test_a_relative_file_becomes_absolute(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written(folder, PIPELINE.format(name="orders"))
    monkeypatch.chdir(folder)
    assert load_pipeline("flow.py:pipeline").graph.pipeline_ref == f"{folder.resolve()}/flow.py:pipeline"
    assert absolute_ref("package.module:pipeline") == "package.module:pipeline"


def test_files_of_the_same_name_are_different_modules(folder: Path) -> None:
    first = written(folder / "a", PIPELINE.format(name="first"))
    second = written(folder / "b", PIPELINE.format(name="second"))
    loaded = [load_pipeline(f"{path}:pipeline") for path in (first, second)]
    assert [pipeline.graph.job for pipeline in loaded] == ["first", "second"]
    modules = {
        pipeline.operators["orders"].source.value.type.__module__  # type: ignore[union-attr, index]
        for pipeline in loaded
    }
    assert len(modules) == 2
    assert modules <= sys.modules.keys()


def test_a_file_may_import_what_lies_beside_it(folder: Path) -> None:
    helper = f"helper_{uuid.uuid4().hex}"
    written(folder, "topic = 'orders'", f"{helper}.py")
    path = written(folder, f"from {helper} import topic\n" + PIPELINE.format(name="orders").replace("from __f", "#"))
    assert load_pipeline(f"{path}:pipeline").graph.job == "orders"


def test_a_module(folder: Path) -> None:
    name = f"package_{uuid.uuid4().hex}"
    written(folder / name, PIPELINE.format(name="orders"))
    sys.path.insert(0, str(folder))
    graph = load_pipeline(f"{name}.flow:pipeline").graph
    assert graph.job == "orders"
    assert graph.pipeline_ref == f"{name}.flow:pipeline"


@pytest.mark.parametrize("ref", ["flow.py", ":pipeline", "flow.py:", ""])
def test_a_reference_names_module_and_attribute(ref: str) -> None:
    with pytest.raises(PipelineError, match="does not name a pipeline: use MODULE:ATTRIBUTE or FILE"):
        load_pipeline(ref)


def test_what_does_not_exist(folder: Path) -> None:
    with pytest.raises(PipelineError, match=r"file .*/nowhere\.py does not exist"):
        load_pipeline(f"{folder}/nowhere.py:pipeline")
    for missing in ("nowhere_at_all", "nowhere_at_all.flow", "moorage.nowhere"):
        with pytest.raises(PipelineError, match=f"module '{missing}' can't be found: .*MOORAGE_PIPELINE_PATH"):
            load_pipeline(f"{missing}:pipeline")


def test_a_missing_attribute_comes_with_a_hint(folder: Path) -> None:
    path = written(folder, PIPELINE.format(name="orders"))
    with pytest.raises(PipelineError, match="has no attribute 'pipe'; it has the pipeline pipeline and other"):
        load_pipeline(f"{path}:pipe")
    empty = written(folder, "x = 1", "empty.py")
    with pytest.raises(PipelineError, match=r"empty\.py has no attribute 'pipe'$"):
        load_pipeline(f"{empty}:pipe")


def test_an_attribute_that_is_no_pipeline(folder: Path) -> None:
    path = written(folder, PIPELINE.format(name="orders"))
    with pytest.raises(PipelineError, match=r"flow\.py:number is a int, not a moorage\.Pipeline"):
        load_pipeline(f"{path}:number")


@pytest.mark.parametrize(
    ("text", "cause", "message"),
    [
        ("import json\njson.loads('{')", ValueError, "failed: JSONDecodeError: Expecting property name"),
        ("def broken(:", SyntaxError, "failed: SyntaxError: "),
        ("import nowhere_at_all", ModuleNotFoundError, "failed: .*No module named 'nowhere_at_all'"),
        ("import sys\nsys.exit(3)", SystemExit, "failed: SystemExit: 3"),
    ],
)
@pytest.mark.parametrize("as_module", [False, True])
def test_the_users_own_error_is_the_cause(
    folder: Path, text: str, cause: type[BaseException], message: str, as_module: bool
) -> None:
    name = f"broken_{uuid.uuid4().hex}"
    path = written(folder, text, f"{name}.py")
    sys.path.insert(0, str(folder))
    with pytest.raises(UserCodeError, match=f"importing .*{name}.* {message}") as caught:
        load_pipeline(f"{name if as_module else path}:pipeline")
    assert isinstance(caught.value.__cause__, cause)
    assert not any(name in module for module in sys.modules)


@pytest.mark.parametrize("as_module", [False, True])
def test_a_mistake_in_the_pipeline_stays_what_it_is_and_names_its_line(folder: Path, as_module: bool) -> None:
    name = f"mistaken_{uuid.uuid4().hex}"
    path = written(folder, "import moorage as mo\nmo.Pipeline('No Name')", f"{name}.py")
    sys.path.insert(0, str(folder))
    with pytest.raises(PipelineError, match=f"^/.*{name}.py:2: pipeline name 'No Name'"):
        load_pipeline(f"{name if as_module else path}:pipeline")


def test_the_public_names_are_what_the_page_says() -> None:
    assert all(hasattr(mo, name) for name in mo.__all__)
