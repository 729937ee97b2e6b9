"""State without keys after a rescale: nothing is lost, nothing doubled that should not be."""

from __future__ import annotations

from collections.abc import Set as AbstractSet

from hypothesis import given
from hypothesis import strategies as st

from moorage.ids import CheckpointId, OperatorUid
from moorage.state.handles import ByteStreamHandle, DistributionMode, OperatorStreamHandle, StateMetaInfo
from moorage.state.operator_ids import operator_id
from moorage.state.operator_state import CheckpointMetadata, OperatorState, OperatorSubtaskState
from moorage.state.redistribution import Element, assign_elements, predecessor

UID = OperatorUid("sample")


def checkpoint(
    mode: DistributionMode, sizes: list[int], finished: AbstractSet[int] = frozenset()
) -> CheckpointMetadata:
    """Subtask i had ``sizes[i]`` elements: "i.0", "i.1" ..., and none if it had finished."""
    subtasks = {}
    for index, size in enumerate(sizes):
        data = b"".join(b"%d.%d" % (index, number) for number in range(size))
        info = {"kept": StateMetaInfo(tuple(range(0, 3 * size, 3)), mode)}
        handle = OperatorStreamHandle(info, ByteStreamHandle(f"{index}", data))
        state = OperatorSubtaskState(managed_operator=(handle,) if size else ())
        subtasks[index] = OperatorSubtaskState(finished=True) if index in finished else state
    operator = OperatorState(
        operator=operator_id(UID), uid=UID, name=UID, parallelism=len(sizes), max_parallelism=64, subtasks=subtasks
    )
    return CheckpointMetadata(checkpoint=CheckpointId(1), operators=(operator,))


def read(element: Element) -> str:
    assert isinstance(element.stream, ByteStreamHandle)
    return element.stream.data[element.start : element.end].decode()


def shares(
    mode: DistributionMode, sizes: list[int], parallelism: int, finished: AbstractSet[int] = frozenset()
) -> list[list[str]]:
    metadata = checkpoint(mode, sizes, finished)
    found = [assign_elements(metadata, operator_id(UID), UID, parallelism, index) for index in range(parallelism)]
    return [[read(element) for element in (share or {}).get("kept", [])] for share in found]


SIZES = st.lists(st.integers(0, 9), min_size=1, max_size=6)


@given(SIZES, st.integers(1, 8))
def test_split_deals_out_evenly(sizes: list[int], parallelism: int) -> None:
    dealt = shares(DistributionMode.SPLIT, sizes, parallelism)
    assert [e for share in dealt for e in share] == [f"{i}.{n}" for i, size in enumerate(sizes) for n in range(size)]
    if parallelism == len(sizes):
        assert list(map(len, dealt)) == sizes
    else:
        assert max(map(len, dealt)) - min(map(len, dealt)) <= 1


@given(SIZES, st.integers(1, 8))
def test_union_gives_everybody_everything(sizes: list[int], parallelism: int) -> None:
    dealt = shares(DistributionMode.UNION, sizes, parallelism)
    assert dealt == [[f"{i}.{n}" for i, size in enumerate(sizes) for n in range(size)]] * parallelism


@given(st.integers(0, 9), st.integers(1, 6), st.integers(1, 8))
def test_broadcast_gives_everybody_one_copy(size: int, former: int, parallelism: int) -> None:
    dealt = shares(DistributionMode.BROADCAST, [size] * former, parallelism)
    assert [[e.partition(".")[2] for e in share] for share in dealt] == [[f"{n}" for n in range(size)]] * parallelism


@given(st.data(), st.integers(1, 6), st.integers(1, 8))
def test_broadcast_state_is_that_of_somebody_who_had_not_finished(
    data: st.DataObject, former: int, parallelism: int
) -> None:
    finished = data.draw(st.sets(st.integers(0, former - 1), max_size=former - 1))
    unfinished = set(range(former)) - finished
    dealt = shares(DistributionMode.BROADCAST, [1] * former, parallelism, finished)
    assert dealt == [[f"{predecessor(unfinished, subtask)}.0"] for subtask in range(parallelism)]


def test_a_subtask_goes_on_with_its_own_broadcast_state_if_it_can() -> None:
    assert [predecessor({1, 2, 5}, subtask) for subtask in range(7)] == [1, 1, 2, 1, 2, 5, 1]
    assert [predecessor(range(3), subtask) for subtask in range(5)] == [0, 1, 2, 0, 1]


def test_an_operator_that_the_checkpoint_does_not_know_has_nothing_to_restore() -> None:
    assert (
        assign_elements(checkpoint(DistributionMode.UNION, [1]), operator_id(OperatorUid("other")), "other", 1, 0)
        is None
    )


def test_elements_of_several_states_share_a_stream() -> None:
    states = {
        "a": StateMetaInfo((0, 4), DistributionMode.UNION),
        "b": StateMetaInfo((2,), DistributionMode.UNION),
        "none": StateMetaInfo((), DistributionMode.UNION),
    }
    handle = OperatorStreamHandle(states, ByteStreamHandle("f", b"a0b0a1"))
    operator = OperatorState(
        operator=operator_id(UID),
        uid=UID,
        name=UID,
        parallelism=1,
        max_parallelism=8,
        subtasks={0: OperatorSubtaskState(managed_operator=(handle,))},
    )
    metadata = CheckpointMetadata(checkpoint=CheckpointId(1), operators=(operator,))
    found = assign_elements(metadata, operator_id(UID), UID, 1, 0)
    assert found is not None
    assert {name: list(map(read, elements)) for name, elements in found.items()} == {
        "a": ["a0", "a1"],
        "b": ["b0"],
        "none": [],
    }
