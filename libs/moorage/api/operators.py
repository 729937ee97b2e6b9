"""Operators of a pipeline as data: what ``Stream``'s methods note down and ``moorage.task.chain`` runs."""

from __future__ import annotations

import inspect
import operator
import types
import typing
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, is_dataclass
from typing import Any

import msgspec

from moorage.api.connectors import KafkaSink, KafkaSource, KeySelector
from moorage.api.functions import CheckpointedFunction, is_checkpointed, list_states
from moorage.api.keyed_state import KeyedState
from moorage.api.state import decode_state, state_fields
from moorage.errors import PipelineError
from moorage.ids import OperatorUid


@dataclass(frozen=True, slots=True)
class SourceOperator:
    uid: OperatorUid
    source: KafkaSource


@dataclass(frozen=True, slots=True)
class MapOperator:
    uid: OperatorUid
    function: Callable[[Any], Any]
    result_type: Any


@dataclass(frozen=True, slots=True)
class FilterOperator:
    uid: OperatorUid
    predicate: Callable[[Any], Any]


@dataclass(frozen=True, slots=True)
class FlatMapOperator:
    uid: OperatorUid
    function: Callable[[Any], Iterable[Any]]
    result_type: Any


@dataclass(frozen=True, slots=True)
class KeyByOperator:
    """Last of its vertex: what comes out of it goes into a keyed exchange."""

    uid: OperatorUid
    select: Callable[[Any], Any]
    key_type: Any
    value_type: Any


@dataclass(frozen=True, slots=True)
class RebalanceOperator:
    """Last of its vertex: what comes out of it is spread over all subtasks of the next one."""

    uid: OperatorUid
    value_type: Any


@dataclass(frozen=True, slots=True)
class BroadcastOperator:
    """Last of its vertex: what comes out of it goes to every subtask of the next one."""

    uid: OperatorUid
    value_type: Any


@dataclass(frozen=True, slots=True)
class BroadcastStateOperator:
    """What every subtask keeps of a broadcast stream."""

    uid: OperatorUid
    function: type[CheckpointedFunction]


@dataclass(frozen=True, slots=True)
class MergeOperator:
    """Head of its vertex: what several rebalanced streams bring, in the order in which it comes."""

    uid: OperatorUid


@dataclass(frozen=True, slots=True)
class ProcessOperator:
    uid: OperatorUid
    state_type: type[KeyedState]
    result_type: Any
    yields: bool
    """``process`` is a generator function."""
    broadcast: BroadcastStateOperator | None = None


@dataclass(frozen=True, slots=True)
class SinkOperator:
    uid: OperatorUid
    sink: KafkaSink
    select_key: Callable[[Any], Any] | None


Operator = (
    SourceOperator
    | MapOperator
    | FilterOperator
    | FlatMapOperator
    | KeyByOperator
    | RebalanceOperator
    | BroadcastOperator
    | BroadcastStateOperator
    | MergeOperator
    | ProcessOperator
    | SinkOperator
)


def has_fields(value_type: Any) -> bool:
    """A type whose values are read by attribute: msgspec Struct, dataclass."""
    return isinstance(value_type, type) and (issubclass(value_type, msgspec.Struct) or is_dataclass(value_type))


def field_types(value_type: Any) -> dict[str, Any] | None:
    """Name and type of the fields of a record type; None when they are not known."""
    if has_fields(value_type) or typing.is_typeddict(value_type):
        return typing.get_type_hints(value_type)
    return None


def selector(what: str, key: KeySelector, value_type: Any) -> tuple[Callable[[Any], Any], Any]:
    """The function that takes the key out of a value, and the key's type. A field name is checked against the type of
    the values, where that is known."""
    if callable(key):
        return key, result_type_of(key)
    if not isinstance(key, str):
        raise PipelineError(f"{what}: key must be a field name or a function, not {key!r}")
    fields = field_types(value_type)
    if fields is not None and key not in fields:
        raise PipelineError(f"{what}: {value_type.__name__} has no field {key!r}; it has {', '.join(sorted(fields))}")
    get = operator.attrgetter(key) if has_fields(value_type) else operator.itemgetter(key)
    return get, Any if fields is None else fields[key]


def result_type_of(function: Callable[..., Any], *, iterable: bool = False) -> Any:
    """The annotated result of a function, Any when there is none. ``iterable``: of its elements."""
    if is_checkpointed(function):
        function = function.__call__
    elif isinstance(function, type):  # called, a class gives instances of itself
        return Any if iterable else function
    try:
        result = typing.get_type_hints(function).get("return", Any)
    except (NameError, TypeError):  # an annotation that can't be resolved, a builtin: nothing is known
        return Any
    if iterable:
        arguments = typing.get_args(result)
        if typing.get_origin(result) in (Iterator, Iterable, Generator, Sequence, list, set):
            return arguments[0]
        return arguments[0] if typing.get_origin(result) is tuple and arguments[1:] == (...,) else Any
    return _without_none(result)


def _without_none(result: Any) -> Any:
    """``X | None`` says that a result may be missing; the type of what is there is X."""
    if result is None or result is type(None):
        return Any
    if typing.get_origin(result) in (typing.Union, types.UnionType):
        rest = [t for t in typing.get_args(result) if t is not type(None)]
        return rest[0] if len(rest) == 1 else typing.Union[tuple(rest)]  # noqa: UP007
    return result


def check_exchangeable(what: str, value_type: Any) -> None:
    """PipelineError when values of a type can't be sent through an exchange and be got back as that type."""
    try:
        msgspec.msgpack.Decoder(value_type)
        custom = isinstance(msgspec.inspect.type_info(value_type), msgspec.inspect.CustomType)
    except (TypeError, NameError) as error:
        raise PipelineError(f"{what}: its type can't be sent through an exchange: {error}") from error
    if custom:
        raise PipelineError(
            f"{what}: its type {value_type.__name__} can't be sent through an exchange: make it a msgspec.Struct or a"
            " dataclass"
        )


def check_function(kind: str, function: Callable[..., Any]) -> None:
    """PipelineError for a function with state that subtasks could not make."""
    if isinstance(function, CheckpointedFunction):
        name = type(function).__name__
        raise PipelineError(f"{kind}: pass the class {name} itself, every subtask makes an instance of its own")
    if is_checkpointed(function):
        list_states(function)
        try:
            function()
        except TypeError as error:
            raise PipelineError(f"{kind}: {function.__name__}() can't be made without arguments: {error}") from error


def uid_of(kind: str, function: Callable[..., Any], uid: str | None) -> str:
    """The uid of a stateless operator: as given, else the function's name."""
    if uid is not None:
        return uid
    name = getattr(function, "__name__", "")
    if not name or name == "<lambda>":
        raise PipelineError(
            f"{kind}: a {'lambda' if name else type(function).__name__} has no name of its own, and a uid made of its"
            f" code would change with it: give the operator one, {kind}(..., uid='...'), or use a named function"
        )
    return name.lower().strip("_")


def process_operator(uid: OperatorUid, state_type: type[KeyedState], returns: Any) -> ProcessOperator:
    """Check a KeyedState class at the line where it is used."""
    what = f"process {uid!r}"
    if not (isinstance(state_type, type) and issubclass(state_type, KeyedState)):
        raise PipelineError(f"{what}: expected a subclass of moorage.KeyedState, not {state_type!r}")
    if state_type.process is KeyedState.process:
        raise PipelineError(f"{what}: {state_type.__name__} must define process(self, value, ctx)")
    try:
        inspect.signature(state_type.process).bind(None, None, None)
    except TypeError as error:
        raise PipelineError(
            f"{what}: {state_type.__name__}.process is called as process(self, value, ctx): {error}"
        ) from error
    try:
        state_type()
    except TypeError as error:
        raise PipelineError(f"{what}: every field of {state_type.__name__} needs a default ({error})") from error
    state_fields(state_type)
    try:
        msgspec.msgpack.Decoder(state_type, dec_hook=decode_state)
    except (TypeError, NameError) as error:
        raise PipelineError(f"{what}: a field of {state_type.__name__} can't be stored: {error}") from error
    yields = inspect.isgeneratorfunction(state_type.process)
    result = returns if returns is not None else result_type_of(state_type.process, iterable=yields)
    return ProcessOperator(uid, state_type, result, yields)
