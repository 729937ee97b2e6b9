"""Pipelines: what people write.

::

    pipeline = mo.Pipeline("orders", parallelism=2)
    (pipeline.source("orders", mo.KafkaSource("orders", value=mo.Json(Order)))
        .key_by("user")
        .process("totals", RunningTotal)
        .sink("results", mo.KafkaSink("totals", key="user")))

A pipeline is only a description; nothing runs until it is submitted. Every mistake that can be found without running it
raises PipelineError at the line that makes it, or at the latest when the pipeline is compiled.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

from moorage.api.connectors import MISSING, KafkaSink, KafkaSource, KeySelector
from moorage.api.functions import CheckpointedFunction, is_checkpointed, list_states
from moorage.api.keyed_state import KeyedState
from moorage.api.operators import (
    BroadcastOperator,
    BroadcastStateOperator,
    FilterOperator,
    FlatMapOperator,
    KeyByOperator,
    MapOperator,
    MergeOperator,
    Operator,
    ProcessOperator,
    RebalanceOperator,
    SinkOperator,
    SourceOperator,
    check_exchangeable,
    check_function,
    process_operator,
    result_type_of,
    selector,
    uid_of,
)
from moorage.errors import PipelineError
from moorage.graph.check import check_options
from moorage.graph.job_graph import CheckpointConfig, RestartConfig, StateConfig
from moorage.ids import JobId, OperatorUid
from moorage.naming import check_name
from moorage.state.key_groups import DEFAULT_MAX_PARALLELISM, UPPER_BOUND_MAX_PARALLELISM


class Node:
    """An operator with its place in the pipeline."""

    __slots__ = ("children", "operator", "parallelism")

    def __init__(self, operator: Operator, parallelism: int) -> None:
        self.operator = operator
        self.parallelism = parallelism
        self.children: list[Node] = []


class Pipeline:
    """A named pipeline. ``max_parallelism`` is the number of key groups: fixed for the life of the job, because it is
    the number of partitions of its exchanges."""

    def __init__(
        self,
        name: str,
        *,
        parallelism: int = 1,
        max_parallelism: int = DEFAULT_MAX_PARALLELISM,
        checkpoint: CheckpointConfig | None = None,
        restart: RestartConfig | None = None,
        state: StateConfig | None = None,
    ) -> None:
        self.name = JobId(check_name("pipeline name", name))
        self.parallelism = parallelism
        self.max_parallelism = max_parallelism
        self.checkpoint = CheckpointConfig() if checkpoint is None else checkpoint
        self.restart = RestartConfig() if restart is None else restart
        self.state = StateConfig() if state is None else state
        self.sources: list[Node] = []
        self._uids: set[OperatorUid] = set()
        if type(max_parallelism) is not int or not 1 <= max_parallelism <= UPPER_BOUND_MAX_PARALLELISM:
            raise PipelineError(f"max_parallelism={max_parallelism!r} must be from 1 to {UPPER_BOUND_MAX_PARALLELISM}")
        self._check_parallelism("pipeline", parallelism)
        if name == "control":
            raise PipelineError("pipeline name 'control' is taken: moorage.control.* are Moorage's own topics")
        check_options(f"pipeline {name!r}", self.checkpoint, self.restart, self.state)

    def source(self, uid: str, source: KafkaSource, *, parallelism: int | None = None) -> Stream:
        """Start a stream."""
        if not isinstance(source, KafkaSource):
            raise PipelineError(f"source {uid!r}: expected a KafkaSource, not {source!r}")
        node = self.add(SourceOperator(self.operator_uid(uid), source), None, parallelism)
        self.sources.append(node)
        return Stream(self, node, source.value.type)

    # --- for Stream --------------------------------------------------------------------------------------------------

    def operator_uid(self, uid: str) -> OperatorUid:
        return OperatorUid(check_name("operator uid", uid))

    def check_free(self, uid: OperatorUid) -> None:
        if uid in self._uids:
            raise PipelineError(
                f"two operators have the uid {uid!r}: state is found by it, so give one of them another"
            )

    def add(self, operator: Operator, parents: Node | Sequence[Node] | None, parallelism: int | None) -> Node:
        uids = [operator.uid]
        if isinstance(operator, ProcessOperator) and operator.broadcast is not None:
            uids.append(operator.broadcast.uid)
        for uid in uids:
            self.check_free(uid)
        if parallelism is not None:
            self._check_parallelism(f"operator {operator.uid!r}", parallelism)
        before = [parents] if isinstance(parents, Node) else list(parents or ())
        behind = [parent for parent in before if not isinstance(parent.operator, BroadcastOperator)]
        inherited = max((parent.parallelism for parent in behind), default=self.parallelism)
        node = Node(operator, inherited if parallelism is None else parallelism)
        for parent in before:
            parent.children.append(node)
        self._uids.update(uids)
        return node

    def _check_parallelism(self, what: str, parallelism: int) -> None:
        if type(parallelism) is not int or not 1 <= parallelism <= self.max_parallelism:
            raise PipelineError(
                f"{what}: parallelism={parallelism!r} must be from 1 to max_parallelism={self.max_parallelism}"
            )


class Stream:
    """Records that come out of an operator. Using a stream twice sends every record both ways."""

    def __init__(self, pipeline: Pipeline, nodes: Node | Sequence[Node], value_type: Any) -> None:
        self._pipeline = pipeline
        self._nodes = (nodes,) if isinstance(nodes, Node) else tuple(nodes)
        self._type = value_type

    def map(self, function: Callable[[Any], Any], *, uid: str | None = None, returns: Any = None) -> Stream:
        """One result per record. ``returns``: type of the results, default the function's annotation; needed when
        results are objects with attributes that go through an exchange."""
        result = returns if returns is not None else result_type_of(_checked("map", function))
        operator = MapOperator(self._uid("map", function, uid), function, result)
        return Stream(self._pipeline, self._pipeline.add(operator, self._node, None), result)

    def filter(self, predicate: Callable[[Any], Any], *, uid: str | None = None) -> Stream:
        """Keep the records for which ``predicate`` is true."""
        operator = FilterOperator(self._uid("filter", _checked("filter", predicate), uid), predicate)
        return Stream(self._pipeline, self._pipeline.add(operator, self._node, None), self._type)

    def flat_map(
        self, function: Callable[[Any], Iterable[Any]], *, uid: str | None = None, returns: Any = None
    ) -> Stream:
        """Any number of results per record: ``function`` returns or yields them."""
        result = returns if returns is not None else result_type_of(_checked("flat_map", function), iterable=True)
        operator = FlatMapOperator(self._uid("flat_map", function, uid), function, result)
        return Stream(self._pipeline, self._pipeline.add(operator, self._node, None), result)

    def key_by(self, key: KeySelector) -> KeyedStream:
        """Bring records of equal keys together. ``key``: a field of the records, or a function of them."""
        what = f"key_by after {self._nodes[0].operator.uid!r}"
        select, key_type = selector(what, key, self._type)
        check_exchangeable(f"{what}: a record", self._type)
        check_exchangeable(f"{what}: a key", key_type)
        return KeyedStream(self._pipeline, self._nodes, select, key_type, self._type)

    def union(self, *others: Stream) -> Stream:
        """The records of this stream and of others. Those of each come in their order, and nothing is said of the order
        between them. A ``key_by`` right behind it costs nothing; anything else is a ``rebalance`` first."""
        for other in others:
            if not isinstance(other, Stream) or other._pipeline is not self._pipeline:  # noqa: SLF001 - one of us
                raise PipelineError(f"union: expected streams of pipeline {self._pipeline.name!r}, not {other!r}")
        streams = (self, *others)
        nodes = [node for stream in streams for node in stream._nodes]  # noqa: SLF001
        if len(set(nodes)) < len(nodes):
            raise PipelineError(f"union: the stream of {nodes[0].operator.uid!r} is named twice")
        types = [stream._type for stream in streams]  # noqa: SLF001
        return Stream(self._pipeline, nodes, types[0] if all(t == types[0] for t in types) else Any)

    def rebalance(self, *, uid: str | None = None, parallelism: int | None = None) -> Stream:
        """Spread the records evenly over the subtasks of what follows, through an exchange. Their order is lost."""
        check_exchangeable(f"rebalance after {self._nodes[0].operator.uid!r}: a record", self._type)
        name = uid or f"{'union' if len(self._nodes) > 1 else 'rebalance'}-{self._nodes[0].operator.uid}"
        merge = MergeOperator(self._pipeline.operator_uid(name))
        spread = [
            self._pipeline.add(RebalanceOperator(numbered(f"{merge.uid}:rebalance", i), self._type), node, None)
            for i, node in enumerate(self._nodes)
        ]
        return Stream(self._pipeline, self._pipeline.add(merge, spread, parallelism), self._type)

    def sink(self, uid: str, sink: KafkaSink, *, parallelism: int | None = None) -> None:
        """Write the records to Kafka."""
        if not isinstance(sink, KafkaSink):
            raise PipelineError(f"sink {uid!r}: expected a KafkaSink, not {sink!r}")
        if sink.key is MISSING:
            raise PipelineError(
                f"sink {uid!r} has no key: KafkaSink({sink.topic!r}, key='field'), or key=None for records without keys"
            )
        select = None if sink.key is None else selector(f"sink {uid!r}", sink.key, self._type)[0]
        self._pipeline.add(SinkOperator(self._pipeline.operator_uid(uid), sink, select), self._node, parallelism)

    def broadcast_to(self, consumer: OperatorUid) -> Node:
        """For ``process``."""
        check_exchangeable(f"broadcast of {self._nodes[0].operator.uid!r}: a record", self._type)
        operator = BroadcastOperator(OperatorUid(f"{consumer}:broadcast"), self._type)
        return self._pipeline.add(operator, self._node, None)

    @property
    def _node(self) -> Node:
        """The operator whose results the stream is; several streams are brought together first."""
        if len(self._nodes) > 1:
            self._nodes = (self.rebalance()._node,)  # noqa: SLF001
        (node,) = self._nodes
        return node

    def _uid(self, kind: str, function: Callable[..., Any], uid: str | None) -> OperatorUid:
        return self._pipeline.operator_uid(uid_of(kind, function, uid))


class Broadcast:
    """A stream that every subtask gets whole, and what is kept of it (Flink: BroadcastStream, BroadcastState).

    ``state``: a CheckpointedFunction class; each subtask calls its own instance with every record of the stream, and
    ``process`` sees that instance as ``ctx.broadcast``. Its lists must be declared ``OperatorListState("broadcast")``.
    Nothing is said of the order between the two streams.
    """

    def __init__(self, stream: Stream, state: type[CheckpointedFunction]) -> None:
        if not isinstance(stream, Stream):
            raise PipelineError(f"Broadcast: expected a stream, not {stream!r}")
        if not is_checkpointed(state):
            raise PipelineError(f"Broadcast: expected a subclass of moorage.CheckpointedFunction, not {state!r}")
        modes = {name: getattr(state(), name).mode for name in list_states(state)}
        if wrong := sorted(name for name, mode in modes.items() if mode != "broadcast"):
            raise PipelineError(
                f"Broadcast: {state.__name__}.{wrong[0]} must be OperatorListState('broadcast'): it is the same in all"
                " subtasks"
            )
        self.stream = stream
        self.state = state


class KeyedStream:
    """A stream whose records lie with their key."""

    def __init__(
        self,
        pipeline: Pipeline,
        nodes: Sequence[Node],
        select: Callable[[Any], Any],
        key_type: Any,
        value_type: Any,
    ) -> None:
        self._pipeline = pipeline
        self._nodes = nodes
        self._select = select
        self._key_type = key_type
        self._type = value_type

    def process(
        self,
        uid: str,
        state: type[KeyedState],
        *,
        returns: Any = None,
        parallelism: int | None = None,
        broadcast: Broadcast | None = None,
    ) -> Stream:
        """Call ``state.process`` for every record with the row of its key.

        ``returns``: type of the results, default the annotation of ``process``. ``broadcast``: what every subtask knows
        besides, as ``ctx.broadcast``.
        """
        name = self._pipeline.operator_uid(uid)
        self._pipeline.check_free(name)
        operator = process_operator(name, state, returns)
        if broadcast is not None:
            if not isinstance(broadcast, Broadcast) or broadcast.stream._pipeline is not self._pipeline:  # noqa: SLF001
                raise PipelineError(
                    f"process {uid!r}: broadcast={broadcast!r} must be a moorage.Broadcast of a stream of pipeline"
                    f" {self._pipeline.name!r}"
                )
            kept = BroadcastStateOperator(OperatorUid(f"{name}-broadcast-state"), broadcast.state)
            operator = replace(operator, broadcast=kept)
        keyed = [
            self._pipeline.add(
                KeyByOperator(numbered(f"{name}:key_by", i), self._select, self._key_type, self._type), node, None
            )
            for i, node in enumerate(self._nodes)
        ]
        if broadcast is not None:
            keyed.append(broadcast.stream.broadcast_to(name))
        node = self._pipeline.add(operator, keyed, parallelism)
        return Stream(self._pipeline, node, operator.result_type)


def numbered(uid: str, index: int) -> OperatorUid:
    """The uids of operators that are one to the user; the first has no number."""
    return OperatorUid(f"{uid}-{index}" if index else uid)


def _checked(kind: str, function: Callable[..., Any]) -> Callable[..., Any]:
    if not callable(function):
        raise PipelineError(f"{kind}: expected a function, not {function!r}")
    check_function(kind, function)
    return function
