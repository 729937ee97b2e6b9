"""The writing side of an exchange: buffers per partition, frames, barriers, flow control.

*Confirmation.* A checkpoint may be acknowledged when every frame up to its barrier is confirmed by the broker. Frames
are counted per *epoch* (the stretch between two barriers); barrier number e is safe when no epoch up to e has a frame
under way. The first delivery error stays latched: ``check`` raises it until the attempt ends, so an acknowledgement
after a lost frame is impossible.

*Flow control.* A log gives no backpressure. Consumers publish how far they have processed each channel
(ExchangeProgress); of each partition the subtask keeps offset and size of its own frames beyond that position. While
they are more than the limits allow, in one partition or all together, ``blocked`` is true and the subtask reads no
input. Only its own frames count, so a consumer that holds one producer's frames back while it aligns never stops the
producer that it waits for. Barriers are never held up, and don't count: checkpoints go on while a sink waits for the
fate of one, and with their barriers alone a producer would stay blocked.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from moorage.errors import LogError, MoorageError, RecordError
from moorage.graph.job_graph import Exchange, ExchangeKind
from moorage.ids import Attempt
from moorage.ports import NO_OFFSET, LogWriter
from moorage.serde.frames import SEQUENCES, ColumnCodec, Columns, FrameKind, Headers, encode_frame
from moorage.state.key_groups import is_plain_key, key_group, key_group_range

_ROUTES_MAX = 1 << 17
"""Keys whose buffer is remembered, so that most records cost a dict lookup and no hash of their bytes."""

_PLAIN_VALUES = (dict, list, str, int, float, bytes, tuple, type(None))


class ExchangeLimits:
    """Sizes of frames, and how far a producer may run ahead: in frames of one partition, in bytes of all partitions.

    An aligned barrier waits behind what was written before it, so the bytes bound the duration of checkpoints, too.
    """

    __slots__ = ("frame_max_bytes", "frame_max_records", "max_lag_bytes", "max_lag_frames")

    def __init__(
        self,
        *,
        frame_max_records: int = 4_000,
        frame_max_bytes: int = 512 << 10,
        max_lag_frames: int = 500,
        max_lag_bytes: int = 4 << 20,
    ) -> None:
        self.frame_max_records = frame_max_records
        self.frame_max_bytes = frame_max_bytes
        self.max_lag_frames = max_lag_frames
        self.max_lag_bytes = max_lag_bytes


class _Buffer:
    """Records of one partition that are not in a frame yet."""

    __slots__ = ("headers", "keys", "number", "timestamps", "values")

    def __init__(self, number: int) -> None:
        self.number = number
        self.keys: list[Any] = []
        self.values: list[Any] = []
        self.timestamps: list[int] = []
        self.headers: list[Headers | None] | None = None


class _Routes(dict[Any, _Buffer]):
    """Key -> its buffer; what is not known is looked up."""

    __slots__ = ("_buffer_of",)

    def __init__(self, buffer_of: Callable[[Any], _Buffer]) -> None:
        super().__init__()
        self._buffer_of = buffer_of

    def __missing__(self, key: Any) -> _Buffer:
        if len(self) >= _ROUTES_MAX:
            self.clear()
        buffer = self[key] = self._buffer_of(key)
        return buffer


class _Backlog:
    """Own frames of one partition which the consumer has not processed yet."""

    __slots__ = ("frames", "position", "sent", "under_way")

    def __init__(self) -> None:
        self.frames: deque[tuple[int, int]] = deque()
        self.under_way = 0
        self.position = 0
        self.sent = 0
        """Frames so far: the sequence number of the next one."""


class ResultPartition:
    """What one subtask writes to one exchange."""

    def __init__(
        self,
        exchange: Exchange,
        topic: str,
        attempt: Attempt,
        subtask: int,
        parallelism: int,
        writer: LogWriter,
        codec: ColumnCodec[Any, Any],
        limits: ExchangeLimits,
        *,
        typed_keys: bool,
        typed_values: bool,
        consumers: int = 1,
    ) -> None:
        """``consumers``: subtasks that read the exchange. ``typed_...``: the consumer knows their type, so objects may
        be sent; else only plain data may."""
        self.exchange = exchange
        self._topic = topic
        self._attempt = attempt
        self._subtask = subtask
        self._writer = writer
        self._codec = codec
        self._limits = limits
        self._typed_keys = typed_keys
        self._typed_values = typed_values
        self._buffers = [_Buffer(number) for number in range(exchange.partitions)]
        self._routes: dict[type, _Routes] = {key_type: _Routes(self._buffer_of) for key_type in (str, bytes, int)}
        """By type, because keys that are equal in Python may have different bytes (1, True, 1.0)."""
        # Subtasks begin at different partitions, so that few records don't all go to the first ones.
        # Of a broadcast exchange each of them reads every partition: the slowest counts.
        self._consumers = consumers if exchange.kind is ExchangeKind.BROADCAST else 1
        self._positions: dict[int, int] = {}
        self._turn = subtask * exchange.partitions // parallelism
        self._pending_records = 0
        self._epoch = 0
        self._unconfirmed: dict[int, int] = {0: 0}
        self._error: LogError | None = None
        self._backlogs = [_Backlog() for _ in range(exchange.partitions)]
        self._lag_bytes = 0
        """Of all partitions."""
        self._lag_frames = 0
        self._over_limit: set[int] = set()
        self.records_out = 0
        self.frames_out = 0
        self.bytes_out = 0
        if exchange.kind is ExchangeKind.FORWARD:
            self._written = key_group_range(exchange.partitions, parallelism, subtask).groups()
        else:
            self._written = range(exchange.partitions)
        """The partitions that this subtask writes to, and so sends barriers to."""

    # --- records -----------------------------------------------------------------------------------------------------

    def emit_keyed(self, keys: Sequence[Any], values: Sequence[Any], timestamps_ms: Sequence[int]) -> None:
        """Each record goes to the partition of its key. RecordError for a key that can't be one."""
        types = set(map(type, keys))
        routes = self._routes.get(types.pop()) if len(types) == 1 else None
        route = self._buffer_of if routes is None else routes.__getitem__
        for buffer, key, value, timestamp in zip(map(route, keys), keys, values, timestamps_ms, strict=True):
            buffer.keys.append(key)
            buffer.values.append(value)
            buffer.timestamps.append(timestamp)
        self._added(len(values))

    def _buffer_of(self, key: Any) -> _Buffer:
        try:
            hash(key)
            if not self._typed_keys and not is_plain_key(key):
                raise TypeError(f"its type {type(key).__name__} is not declared")
            return self._buffers[key_group(key, self.exchange.partitions)]
        except (TypeError, ValueError, OverflowError) as error:
            raise RecordError(
                f"operator {self.exchange.producer_operator!r}: {key!r:.100} can't be a key: {error}. Keys may be str,"
                " bytes, numbers or tuples of them; for others the key function must be annotated with their type"
            ) from error

    def emit_forward(
        self,
        group: int,
        keys: Sequence[Any],
        values: Sequence[Any],
        timestamps_ms: Sequence[int],
        headers: Sequence[Headers | None] | None = None,
    ) -> None:
        """All records go to partition ``group``, in order."""
        buffer = self._buffers[group]
        if headers is not None or buffer.headers is not None:
            if buffer.headers is None:
                buffer.headers = [None] * len(buffer.values)
            buffer.headers += headers if headers is not None else [None] * len(values)
        buffer.keys += keys
        buffer.values += values
        buffer.timestamps += timestamps_ms
        self._added(len(values))

    def emit_rebalanced(self, values: Sequence[Any], timestamps_ms: Sequence[int]) -> None:
        """One partition after the other gets a batch."""
        self._turn = (self._turn + 1) % self.exchange.partitions
        self.emit_forward(self._turn, [None] * len(values), values, timestamps_ms)

    def _added(self, records: int) -> None:
        self._pending_records += records
        self.records_out += records

    @property
    def pending_records(self) -> int:
        return self._pending_records

    def flush_full(self) -> None:
        """Send the buffers that have reached a frame's size; called once a batch."""
        limit = self._limits.frame_max_records
        if self._pending_records >= limit:
            for buffer in self._buffers:
                if len(buffer.values) >= limit:
                    self._flush(buffer)

    def flush(self) -> None:
        """Send whatever is buffered."""
        if self._pending_records:
            for buffer in self._buffers:
                if buffer.values:
                    self._flush(buffer)

    def _flush(self, buffer: _Buffer) -> None:
        columns = Columns(buffer.keys, buffer.values, buffer.timestamps, buffer.headers)
        self._pending_records -= len(columns)
        self._send_columns(buffer.number, columns)
        buffer.keys.clear()
        buffer.values.clear()
        buffer.timestamps.clear()
        buffer.headers = None

    def _send_columns(self, partition: int, columns: Columns[Any, Any]) -> None:
        try:
            if not self._typed_values:
                for kind in set(map(type, columns.values)):
                    if not issubclass(kind, _PLAIN_VALUES):
                        raise TypeError(f"its type {kind.__name__} is not declared")
            payload = self._codec.encode(columns)
        except (TypeError, ValueError, OverflowError, RecursionError) as error:
            raise RecordError(
                f"a record for exchange {self.exchange.exchange} can't be sent: {error}. Results may be dicts, lists,"
                " str, bytes, numbers; for Structs and dataclasses name the type: returns=... or an annotation"
            ) from error
        if len(payload) > self._limits.frame_max_bytes:
            count = len(columns)
            if count == 1:
                raise RecordError(
                    f"a record of {len(payload)} bytes (key {columns.keys[0]!r:.100}) is too large for exchange"
                    f" {self.exchange.exchange}: the limit is frame_max_bytes={self._limits.frame_max_bytes}"
                )
            for part in (slice(0, count // 2), slice(count // 2, count)):
                headers = None if columns.headers is None else columns.headers[part]
                half = Columns(columns.keys[part], columns.values[part], columns.timestamps_ms[part], headers)
                self._send_columns(partition, half)
            return
        self._send(partition, FrameKind.DATA, len(columns), payload)

    # --- frames ------------------------------------------------------------------------------------------------------

    def barrier(self, payload: bytes) -> int:
        """Send everything buffered, then the barrier into every partition; returns the epoch that it closes."""
        return self._control(FrameKind.BARRIER, payload)

    def end_of_data(self) -> int:
        """No data follows, barriers may."""
        return self._control(FrameKind.END_OF_DATA)

    def end_of_partition(self) -> int:
        """Nothing follows at all."""
        return self._control(FrameKind.END_OF_PARTITION)

    def _control(self, kind: FrameKind, payload: bytes = b"") -> int:
        self.flush()
        for partition in self._written:
            self._send(partition, kind, 0, payload)
        closed = self._epoch
        self._epoch += 1
        self._unconfirmed[self._epoch] = 0
        return closed

    def _send(self, partition: int, kind: FrameKind, records: int, payload: bytes) -> None:
        epoch, backlog = self._epoch, self._backlogs[partition]
        frame = encode_frame(kind, self._attempt, self._subtask, backlog.sent, records, payload)
        size = len(frame)
        backlog.sent = (backlog.sent + 1) % SEQUENCES
        self._unconfirmed[epoch] += 1
        is_data = kind is FrameKind.DATA
        if is_data:
            backlog.under_way += 1
            self._lag_bytes += size
            self._lag_frames += 1
        self.frames_out += 1
        self.bytes_out += size

        def delivered(offset: int, error: LogError | None) -> None:
            if error is not None:
                self._error = self._error or error  # its epoch stays unconfirmed for ever
                return
            self._unconfirmed[epoch] -= 1
            if not is_data:
                return
            backlog.under_way -= 1
            if offset == NO_OFFSET and backlog.frames:
                # Not known after a retry; it lies behind the frame before it, and that is near enough to count.
                offset = backlog.frames[-1][0]
            if offset >= backlog.position:
                backlog.frames.append((offset, size))
            else:  # the consumer was faster than this report, or nothing is known
                self._lag_bytes -= size
                self._lag_frames -= 1
                self._weigh(partition, backlog)

        self._writer.append(self._topic, partition, frame, delivered)
        self._weigh(partition, backlog)

    def confirmed(self, epoch: int) -> bool:
        """Every frame up to the barrier that closed ``epoch`` is stored."""
        oldest = next(iter(self._unconfirmed))
        while oldest < self._epoch and self._unconfirmed[oldest] == 0:
            del self._unconfirmed[oldest]
            oldest = next(iter(self._unconfirmed))
        return oldest > epoch

    def check(self) -> None:
        """Raise the first delivery error, again and again."""
        if self._error is not None:
            raise MoorageError(
                f"exchange {self.exchange.exchange}: a frame was not stored: {self._error}"
            ) from self._error

    # --- flow control ------------------------------------------------------------------------------------------------

    @property
    def blocked(self) -> bool:
        return self._lag_bytes > self._limits.max_lag_bytes or bool(self._over_limit)

    def progress(self, partition: int, position: int, consumer: int = 0) -> None:
        """The consumer has processed this subtask's channel of ``partition`` up to ``position``."""
        if self._consumers > 1:
            self._positions[consumer] = max(position, self._positions.get(consumer, 0))
            if len(self._positions) < self._consumers:
                return
            position = min(self._positions.values())
        backlog = self._backlogs[partition]
        if position <= backlog.position:
            return
        backlog.position = position
        frames = backlog.frames
        while frames and frames[0][0] < position:
            self._lag_bytes -= frames.popleft()[1]
            self._lag_frames -= 1
        self._weigh(partition, backlog)

    def _weigh(self, partition: int, backlog: _Backlog) -> None:
        frames = len(backlog.frames) + backlog.under_way
        if frames > self._limits.max_lag_frames:
            self._over_limit.add(partition)
        else:
            self._over_limit.discard(partition)

    def lag(self) -> tuple[int, int]:
        """Own frames and bytes that the consumers have not processed yet, over all partitions."""
        return self._lag_frames, self._lag_bytes
