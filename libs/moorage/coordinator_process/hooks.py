"""Master hooks, as the coordinator process runs them: in threads, the calls of one job one after another."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from moorage.checkpoint.hooks import MasterHook, MasterHookFactory
from moorage.effects import CloseHooks, HookOperation, RestoreHooks, TriggerHooks
from moorage.errors import HookError, StateError
from moorage.ids import CheckpointId, JobId
from moorage.state.operator_state import ORIGIN_STATE, MasterState


class HookRunner:
    """The hooks of all jobs, made when they are first needed and again after they were closed.

    Calls for different jobs may come from different threads at the same time, those for one job may not.
    """

    def __init__(self, factories: Sequence[MasterHookFactory] = ()) -> None:
        self._factories = tuple(factories)
        self._hooks: dict[JobId, dict[str, MasterHook[Any]]] = {}

    def run(self, operation: HookOperation[Any]) -> Any:
        """*Blocking.* HookError: a hook failed, in whatever way. StateError: a state belongs to none."""
        match operation:
            case TriggerHooks(job=job, checkpoint=checkpoint, triggered_ms=triggered_ms):
                return self._trigger(job, checkpoint, triggered_ms)
            case RestoreHooks():
                self._restore(operation)
            case CloseHooks(job=job):
                if problems := _close(self._hooks.pop(job, {}).values()):
                    raise HookError(f"the master hooks of job {job}: {problems}")
            case _:
                raise TypeError(f"{operation} has nothing to do with master hooks")
        return None

    def _trigger(self, job: JobId, checkpoint: CheckpointId, triggered_ms: int) -> tuple[MasterState, ...]:
        states = []
        for name, hook in self._of(job).items():
            try:
                state = hook.trigger(checkpoint, triggered_ms)
                if state is not None:
                    states.append(_stored(name, hook, state))
            except Exception as error:
                raise HookError(f"master hook {name}: {error!r}") from error
        return tuple(states)

    def _restore(self, operation: RestoreHooks) -> None:
        hooks = self._of(operation.job)
        states = {state.name: state for state in operation.states}
        missing = sorted(states.keys() - hooks.keys())
        if missing and not operation.allow_non_restored:
            raise StateError(
                f"no master hook is configured for the state of {', '.join(missing)}; allow non-restored state to drop"
                " it"
            )
        for name, hook in hooks.items():
            try:
                stored = states.get(name)
                if operation.checkpoint is None:
                    hook.reset()
                else:
                    state = None if stored is None else hook.serializer.deserialize(stored.version, stored.data)
                    hook.restore(operation.checkpoint, state)
            except Exception as error:
                raise HookError(f"master hook {name} can't be restored: {error!r}") from error

    def _of(self, job: JobId) -> dict[str, MasterHook[Any]]:
        if job not in self._hooks:
            made: list[MasterHook[Any]] = []
            try:
                for factory in self._factories:
                    if (hook := factory(job)) is not None:
                        made.append(hook)  # noqa: PERF401 - those before one that fails are closed
                self._hooks[job] = _named(made)
            except Exception as error:
                problems = _close(made)
                also = f", and then {problems}" if problems else ""
                raise HookError(f"the master hooks of job {job} can't be made: {error!r}{also}") from error
        return self._hooks[job]


def _named(hooks: Iterable[MasterHook[Any]]) -> dict[str, MasterHook[Any]]:
    named: dict[str, MasterHook[Any]] = {}
    for hook in hooks:
        name = hook.identifier
        if not isinstance(name, str) or name in ("", ORIGIN_STATE):
            raise ValueError(f"{name!r} can't be the identifier of a hook")
        if name in named:
            raise ValueError(f"two hooks have the identifier {name!r}")
        named[name] = hook
    return named


def _stored(name: str, hook: MasterHook[Any], state: Any) -> MasterState:
    data, version = hook.serializer.serialize(state), hook.serializer.version
    if not isinstance(data, bytes):
        raise TypeError(f"its serializer returned no bytes but {type(data).__name__}")
    if not isinstance(version, int) or not -(2**31) <= version < 2**31:
        raise TypeError(f"the version of its serializer must be a number of 32 bits, not {version!r}")
    return MasterState(name=name, version=version, data=data)


def _close(hooks: Iterable[MasterHook[Any]]) -> str:
    """Close every one; what went wrong."""
    problems = []
    for hook in hooks:
        try:
            hook.close()
        except Exception as error:  # noqa: BLE001 - the others are to be closed, too
            problems.append(f"{type(hook).__name__} can't be closed: {error!r}")
    return ", ".join(problems)
