from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from tests.unit.cluster.graphs import SINK, TOTALS, orders_graph

from moorage.checkpoint.sink_commits import SinkCommits
from moorage.ids import CheckpointId, SubtaskId


def commit(commits: SinkCommits, subtask: int, checkpoint: int) -> bool:
    rose = commits.committed(SubtaskId(SINK, subtask), CheckpointId(checkpoint), 1_000 + checkpoint)
    commits.validate()
    return rose


def test_the_floor_is_known_when_every_sink_subtask_has_reported() -> None:
    commits = SinkCommits(orders_graph(2))
    assert commits.has_sinks
    assert not commit(commits, 0, 5)
    assert commits.floor is None
    assert commit(commits, 1, 3)
    assert commits.floor == 3
    assert commits.last_committed_ms == 1_005


def test_it_rises_with_the_slowest() -> None:
    commits = SinkCommits(orders_graph(2))
    commit(commits, 0, 1)
    commit(commits, 1, 1)
    assert not commit(commits, 0, 2)
    assert commit(commits, 1, 4)
    assert commits.floor == 2


def test_a_restart_keeps_the_floor_because_commits_are_durable() -> None:
    commits = SinkCommits(orders_graph(2))
    commit(commits, 0, 4)
    commit(commits, 1, 4)
    commits.restarted(orders_graph(2))
    assert commits.floor == 4
    commit(commits, 0, 4)
    assert not commit(commits, 1, 4)
    assert commits.floor == 4


def test_others_do_not_count() -> None:
    commits = SinkCommits(orders_graph(1))
    assert not commits.committed(SubtaskId(TOTALS, 0), CheckpointId(9), 1)
    assert commits.floor is None
    assert not SinkCommits(orders_graph(1, with_sink=False)).has_sinks


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(1, 20)), max_size=60))
def test_the_floor_is_the_minimum_whatever_the_order(reports: list[tuple[int, int]]) -> None:
    commits = SinkCommits(orders_graph(3))
    best: dict[int, int] = {}
    for subtask, checkpoint in reports:
        commit(commits, subtask, checkpoint)
        best[subtask] = max(checkpoint, best.get(subtask, 0))
        assert commits.floor == (min(best.values()) if len(best) == 3 else None)
