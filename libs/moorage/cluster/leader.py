"""The lease (Flink: LeaderElection). One coordinator leads, the others wait.

========  ====================================  ==========================================================
state     means                                 left to
========  ====================================  ==========================================================
STANDBY   asks for the lease now and then       LOADING: got it
LOADING   holds it, reads what is stored        LEADING: has read; STANDBY: lost
LEADING   acts                                  STANDBY: lost
STOPPED   never asks again                      (ended)
========  ====================================  ==========================================================

The lease counts from the moment at which it was asked for, on this process's own clock. A leader that can't renew it in
time is none from then on, whether or not somebody else took over; a paused one finds out at the first tick after it
wakes. Acting too long would do no harm (the registry and the workers fence by epoch), it would only confuse.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from moorage.cluster.protocol import LeadershipChanged, LeaderState
from moorage.effects import AcquireLease, CallError, CallFailure, Effects, ReleaseLease, RenewLease
from moorage.ids import Epoch
from moorage.messages.registry import Lease

TRANSITIONS: Mapping[LeaderState, frozenset[LeaderState]] = {
    LeaderState.STANDBY: frozenset({LeaderState.LOADING, LeaderState.STOPPED}),
    LeaderState.LOADING: frozenset({LeaderState.LEADING, LeaderState.STANDBY, LeaderState.STOPPED}),
    LeaderState.LEADING: frozenset({LeaderState.STANDBY, LeaderState.STOPPED}),
    LeaderState.STOPPED: frozenset(),
}


class Leader:
    """See the module. ``elected`` is called with the lease in hand, ``lost`` when it is gone."""

    def __init__(
        self, effects: Effects, holder: str, ttl_ms: int, *, elected: Callable[[], None], lost: Callable[[], None]
    ) -> None:
        self.holder = holder
        self.state = LeaderState.STANDBY
        self.other_holder: str | None = None
        """Who held the lease when we asked last; None: nobody that we know of."""
        self.released = False
        self._effects = effects
        self._ttl_ms = ttl_ms
        self._elected = elected
        self._lost = lost
        self._ask_at_ms = 0
        self._is_asking = False
        self._expires_ms = 0
        self._highest_epoch = Epoch(0)

    def tick(self) -> None:
        now_ms = self._effects.now_ms
        if self.leads and now_ms >= self._expires_ms:
            self.lose("the lease could not be renewed in time")
        if self.state is LeaderState.STOPPED or self._is_asking or now_ms < self._ask_at_ms:
            return
        self._is_asking = True
        self._ask_at_ms = now_ms + self._ttl_ms // 3
        if self.leads:
            operation = RenewLease(holder=self.holder, epoch=self._effects.epoch, ttl_ms=self._ttl_ms)
            self._effects.call(operation, partial(self._renewed, now_ms), self._not_answered)
        else:
            acquire = AcquireLease(holder=self.holder, ttl_ms=self._ttl_ms, above=self._epoch_floor())
            self._effects.call(acquire, partial(self._acquired, now_ms), self._not_answered)

    @property
    def leads(self) -> bool:
        return self.state in (LeaderState.LOADING, LeaderState.LEADING)

    def loaded(self) -> None:
        self._go(LeaderState.LEADING, "everything stored was read")

    def saw_epoch(self, epoch: Epoch) -> None:
        """A worker has heard of this epoch. One above ours means that the registry has lost its data."""
        self._highest_epoch = max(self._highest_epoch, epoch)
        if self.leads and epoch > self._effects.epoch:
            self.lose(f"a worker has seen epoch {epoch}, this leader has {self._effects.epoch}")

    def _epoch_floor(self) -> Epoch:
        """A registry that has lost its data begins anew, while a former leader may still act on an epoch that we never
        heard of. Two leaders of one epoch would not be fenced from each other, so epochs go on from the time of day;
        one that lies above it all the same is seen in the heartbeats of workers."""
        return max(self._highest_epoch, Epoch(self._effects.wall_ms))

    def lose(self, reason: str) -> None:
        if not self.leads:
            return
        self._is_asking = False  # The call is forgotten with the leadership.
        self._effects.forget_calls()
        self._go(LeaderState.STANDBY, reason)
        self._lost()

    def stop(self) -> None:
        if self.state is LeaderState.STOPPED:
            return
        led = self.leads
        self._effects.forget_calls()
        self._go(LeaderState.STOPPED, "this coordinator is stopped")
        if led:
            self._lost()
            release = ReleaseLease(holder=self.holder, epoch=self._effects.epoch)
            self._effects.call(release, self._released, self._not_released)
        else:
            self.released = True

    def _acquired(self, asked_ms: int, lease: Lease | None) -> None:
        self._is_asking = False
        if lease is None or lease.holder != self.holder:
            self.other_holder = None if lease is None else lease.holder
            if lease is not None:
                self._highest_epoch = max(self._highest_epoch, lease.epoch)
            return
        self.other_holder = None
        self._effects.epoch = lease.epoch
        self._highest_epoch = max(self._highest_epoch, lease.epoch)
        self._expires_ms = asked_ms + self._ttl_ms
        self._go(LeaderState.LOADING, "the lease was free")
        self._elected()

    def _renewed(self, asked_ms: int, is_ours: bool) -> None:
        self._is_asking = False
        if is_ours:
            self._expires_ms = asked_ms + self._ttl_ms
        else:
            self.lose("another coordinator took the lease, or it expired")

    def _not_answered(self, error: CallError) -> None:
        self._is_asking = False
        self._ask_at_ms = self._effects.now_ms + self._ttl_ms // 12  # A short outage must not cost the lease.
        if error.failure is not CallFailure.UNAVAILABLE:
            self.lose(error.detail)

    def _released(self, _: None) -> None:
        self.released = True

    def _not_released(self, error: CallError) -> None:
        self.released = True  # It expires by itself.

    def _go(self, state: LeaderState, reason: str) -> None:
        if state not in TRANSITIONS[self.state]:
            raise AssertionError(f"the leader can't go from {self.state.value} to {state.value}")
        self.state = state
        self._effects.report(LeadershipChanged(state=state, epoch=self._effects.epoch, reason=reason))

    def validate(self) -> None:
        assert self._highest_epoch >= self._effects.epoch
        assert not self.leads or self._effects.epoch > 0
