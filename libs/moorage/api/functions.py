"""State of operators without keys: of ``map``, ``filter`` and ``flat_map``.

::

    class Sample(mo.CheckpointedFunction):
        kept: mo.OperatorListState[Order] = mo.OperatorListState("split")

        def __call__(self, order: Order) -> bool:
            ...

    stream.filter(Sample)

The class is handed over, and every subtask makes an instance of its own. Its list states are stored with each
checkpoint as a whole, so they should be small. Flink: CheckpointedFunction, ListState, UnionListState.
"""

from __future__ import annotations

import typing
from typing import Any, ClassVar, Literal, TypeGuard, TypeVar

import msgspec

from moorage.errors import PipelineError

T = TypeVar("T")

Mode = Literal["split", "union", "broadcast"]


class OperatorListState(list[T]):
    """A list that is stored with every checkpoint; declared in the body of a CheckpointedFunction.

    After a restore with another parallelism its elements are dealt out evenly (``split``), or every subtask gets those
    of all (``union``) or those of one (``broadcast``, for what is the same in all subtasks).
    """

    def __init__(self, mode: Mode = "split") -> None:
        super().__init__()
        if mode not in typing.get_args(Mode):
            raise PipelineError(f"OperatorListState({mode!r}): it must be one of {', '.join(typing.get_args(Mode))}")
        self.mode: Mode = mode


class CheckpointedFunction:
    """Base of functions that have state; subclass it, declare list states, write ``__call__``."""

    _declared: ClassVar[dict[str, OperatorListState[Any]]] = {}

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        own = {name: value for name, value in vars(cls).items() if isinstance(value, OperatorListState)}
        cls._declared = cls._declared | own

    def __new__(cls, *arguments: Any, **options: Any) -> typing.Self:
        function = super().__new__(cls)
        for name, declared in cls._declared.items():
            setattr(function, name, OperatorListState(declared.mode))
        return function

    def __call__(self, value: Any) -> Any:
        raise NotImplementedError(f"{type(self).__name__} must define __call__(self, value)")

    def initialize_state(self, *, restored: bool) -> None:
        """Called once, before the first record. ``restored``: the lists hold what a checkpoint held; else they are
        empty."""

    def snapshot_state(self) -> None:
        """Called at every checkpoint before the lists are stored: the time to fill them with what is kept elsewhere."""


def is_checkpointed(function: Any) -> TypeGuard[type[CheckpointedFunction]]:
    """A class that makes functions with state, not a function itself."""
    return isinstance(function, type) and issubclass(function, CheckpointedFunction)


def list_states(function: type[CheckpointedFunction]) -> dict[str, Any]:
    """Name and element type of the states that a function declares. PipelineError: one that can't be stored."""
    try:
        hints = typing.get_type_hints(function)
    except (NameError, TypeError):  # an annotation that can't be resolved: nothing is known
        hints = {}
    types: dict[str, Any] = {}
    for name in function._declared:  # noqa: SLF001 - declared in this module
        (types[name],) = typing.get_args(hints.get(name)) or (Any,)
        try:
            msgspec.msgpack.Decoder(types[name])
        except (TypeError, NameError) as error:
            raise PipelineError(f"{function.__name__}.{name}: {types[name]} can't be stored: {error}") from error
    return types
