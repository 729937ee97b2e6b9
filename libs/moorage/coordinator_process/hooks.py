"""Master hooks, as the coordinator process runs them: in a thread of their own, one call after another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from moorage.checkpoint.hooks import MasterHook, MasterHookFactory
from moorage.effects import Operation, RestoreHooks, TriggerHooks
from moorage.errors import HookError, StateError
from moorage.ids import CheckpointId, JobId
from moorage.state.operator_state import MasterState

HOOK_OPERATIONS = (TriggerHooks, RestoreHooks)


class HookRunner:
    """The hooks of all jobs, made when they are first needed."""

    def __init__(self, factories: Sequence[MasterHookFactory] = ()) -> None:
        self._factories = tuple(factories)
        self._hooks: dict[JobId, dict[str, MasterHook[Any]]] = {}

    def run(self, operation: Operation[Any]) -> Any:
        """*Blocking.* Carry out one of HOOK_OPERATIONS."""
        match operation:
            case TriggerHooks(job=job, checkpoint=checkpoint, triggered_ms=triggered_ms):
                return self._trigger(job, checkpoint, triggered_ms)
            case RestoreHooks():
                self._restore(operation)
            case _:
                raise TypeError(f"{operation} has nothing to do with master hooks")
        return None

    def close(self) -> None:
        for hooks in self._hooks.values():
            for hook in hooks.values():
                hook.close()
        self._hooks.clear()

    def _trigger(self, job: JobId, checkpoint: CheckpointId, triggered_ms: int) -> tuple[MasterState, ...]:
        states = []
        for name, hook in self._of(job).items():
            try:
                state = hook.trigger(checkpoint, triggered_ms)
                if state is not None:
                    data = hook.serializer.serialize(state)
                    states.append(MasterState(name=name, version=hook.serializer.version, data=data))
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
            try:
                made = [hook for factory in self._factories if (hook := factory(job)) is not None]
            except Exception as error:
                raise HookError(f"the master hooks of job {job} can't be made: {error!r}") from error
            self._hooks[job] = {hook.identifier: hook for hook in made}
        return self._hooks[job]
