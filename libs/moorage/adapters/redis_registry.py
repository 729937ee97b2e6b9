"""The checkpoint registry in Redis. Every change is one Lua script, fenced by the coordinator's epoch inside of it.

=============================  ======  ================================================================
key                            type    content
=============================  ======  ================================================================
``{ns}:epoch``                 string  the highest epoch ever given or seen
``{ns}:lease``                 string  JSON of holder and epoch; goes when the lease expires
``{ns}:jobs``                  hash    job -> JSON of its JobRecord
``{ns}:attempts``              hash    job -> highest attempt; outlives a purge
``{ns}:checkpoint-ids``        hash    job -> last checkpoint id given; outlives a purge
``{ns}:checkpoints:<job>``     hash    checkpoint id -> JSON of its CheckpointRecord; retained ones only
``{ns}:completed:<job>``       zset    the newest ids of completed checkpoints, subsumed ones included
=============================  ======  ================================================================

The braces make it one slot of a Redis Cluster. Redis must not lose what it has acknowledged: append-only file with
``appendfsync always``.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import msgspec
import redis
from redis import exceptions
from redis.backoff import ExponentialWithJitterBackoff
from redis.retry import Retry

from moorage.errors import (
    BaseSubsumedError,
    FencedError,
    RegistryError,
    RegistryUnavailableError,
    SettingError,
    StaleAttemptError,
)
from moorage.ids import Attempt, CheckpointId, Epoch, JobId
from moorage.messages.registry import CheckpointRecord, JobRecord, JobStatus, Lease
from moorage.naming import registry_key
from moorage.ports import COMPLETED_IDS_KEPT

logger = logging.getLogger(__name__)

# --- scripts ---------------------------------------------------------------------------------------------------------

_ACQUIRE_LEASE = """
-- KEYS epoch, lease; ARGV holder, ttl, above
local lease = redis.call('GET', KEYS[2])
if lease and cjson.decode(lease).holder ~= ARGV[1] then return false end
local epoch = math.max(tonumber(redis.call('GET', KEYS[1]) or '0'), tonumber(ARGV[3])) + 1
redis.call('SET', KEYS[1], epoch)
redis.call('SET', KEYS[2], cjson.encode({holder = ARGV[1], epoch = epoch}), 'PX', ARGV[2])
return epoch
"""

_IS_OURS = """
local function is_ours(lease, holder, epoch)
  if not lease then return false end
  lease = cjson.decode(lease)
  return lease.holder == holder and lease.epoch == tonumber(epoch)
end
"""

_RENEW_LEASE = f"""{_IS_OURS}
-- KEYS lease; ARGV holder, epoch, ttl
if not is_ours(redis.call('GET', KEYS[1]), ARGV[1], ARGV[2]) then return 0 end
return redis.call('PEXPIRE', KEYS[1], ARGV[3])
"""

_RELEASE_LEASE = f"""{_IS_OURS}
-- KEYS lease; ARGV holder, epoch
if is_ours(redis.call('GET', KEYS[1]), ARGV[1], ARGV[2]) then redis.call('DEL', KEYS[1]) end
"""

_LEASE = """
-- KEYS lease
return {redis.call('GET', KEYS[1]), redis.call('PTTL', KEYS[1])}
"""

# What follows answers {'FENCED' | 'STALE' | 'BASE', what is there instead} or {'OK', ...}.

_FENCE = """
-- KEYS[1] epoch; ARGV[1] the caller's
local epoch = tonumber(redis.call('GET', KEYS[1]) or '0')
if tonumber(ARGV[1]) ~= epoch then return {'FENCED', tostring(epoch)} end
"""

_RAISE = """
local function raise(key, field, number)
  if tonumber(redis.call('HGET', key, field) or '0') < tonumber(number) then redis.call('HSET', key, field, number) end
end
"""

_SAVE_JOB = f"""{_FENCE}{_RAISE}
-- KEYS epoch, jobs, attempts, purging; ARGV epoch, job, attempt, record, submitted
local stored = redis.call('HGET', KEYS[2], ARGV[2])
local attempt = stored and cjson.decode(stored).attempt
if attempt and attempt ~= tonumber(ARGV[3]) then return {{'STALE', 'it is at attempt ' .. attempt}} end
local purging = redis.call('HGET', KEYS[4], ARGV[2])
if purging and purging ~= ARGV[5] then return {{'STALE', 'an earlier one of that name is being purged'}} end
redis.call('HSET', KEYS[2], ARGV[2], ARGV[4])
raise(KEYS[3], ARGV[2], ARGV[3])
return {{'OK'}}
"""

_START_ATTEMPT = f"""{_FENCE}{_RAISE}
-- KEYS epoch, jobs, attempts, checkpoints; ARGV epoch, job, attempt, record, latest
if redis.call('HGET', KEYS[2], ARGV[2]) == ARGV[4] then return {{'OK'}} end
local attempt = tonumber(redis.call('HGET', KEYS[3], ARGV[2]) or '0')
if attempt >= tonumber(ARGV[3]) then return {{'STALE', 'its last attempt is ' .. attempt}} end
local newest = 0
for _, id in ipairs(redis.call('HKEYS', KEYS[4])) do newest = math.max(newest, tonumber(id)) end
if newest ~= tonumber(ARGV[5]) then return {{'STALE', 'its newest checkpoint is ' .. newest}} end
redis.call('HSET', KEYS[2], ARGV[2], ARGV[4])
raise(KEYS[3], ARGV[2], ARGV[3])
return {{'OK'}}
"""

_REBUILD_JOB = f"""{_FENCE}{_RAISE}
-- KEYS epoch, jobs, attempts, checkpoint-ids, checkpoints, completed
-- ARGV epoch, job, attempt, record, last checkpoint id, how many completed ids follow, these,
--   then pairs of checkpoint id and record
local stored = redis.call('HGET', KEYS[2], ARGV[2])
if stored == ARGV[4] then return {{'OK'}} end
if stored then return {{'STALE', 'it is known, at attempt ' .. cjson.decode(stored).attempt}} end
redis.call('DEL', KEYS[5], KEYS[6])
local behind = 6 + tonumber(ARGV[6])
for i = 7, behind do redis.call('ZADD', KEYS[6], ARGV[i], ARGV[i]) end
for i = behind + 1, #ARGV, 2 do redis.call('HSET', KEYS[5], ARGV[i], ARGV[i + 1]) end
redis.call('HSET', KEYS[2], ARGV[2], ARGV[4])
raise(KEYS[3], ARGV[2], ARGV[3])
raise(KEYS[4], ARGV[2], ARGV[5])
return {{'OK'}}
"""

_NEXT_CHECKPOINT_ID = f"""{_FENCE}
-- KEYS epoch, checkpoint-ids; ARGV epoch, job
return {{'OK', redis.call('HINCRBY', KEYS[2], ARGV[2], 1)}}
"""

_ADD_CHECKPOINT = f"""{_FENCE}{_RAISE}
-- KEYS epoch, jobs, checkpoint-ids, checkpoints, completed
-- ARGV epoch, job, attempt, checkpoint, record, retain, keep_from, base, how many completed ids to keep,
--   whether this is one of them
local stored = redis.call('HGET', KEYS[2], ARGV[2])
local attempt = stored and cjson.decode(stored).attempt
if attempt ~= tonumber(ARGV[3]) then
  return {{'STALE', attempt and 'it is at attempt ' .. attempt or 'it is unknown'}}
end
if redis.call('ZSCORE', KEYS[5], ARGV[4]) or redis.call('HEXISTS', KEYS[4], ARGV[4]) == 1 then return {{'OK'}} end
if ARGV[8] ~= '0' and redis.call('HEXISTS', KEYS[4], ARGV[8]) == 0 then return {{'BASE'}} end
if cjson.decode(ARGV[5]).kind == 'checkpoint' then
  for _, stored_record in ipairs(redis.call('HVALS', KEYS[4])) do
    local other = cjson.decode(stored_record)
    if other.kind == 'checkpoint' and other.checkpoint > tonumber(ARGV[4]) then return {{'BASE'}} end
  end
end
redis.call('HSET', KEYS[4], ARGV[4], ARGV[5])
if ARGV[10] == '1' then redis.call('ZADD', KEYS[5], ARGV[4], ARGV[4]) end
redis.call('ZREMRANGEBYRANK', KEYS[5], 0, -tonumber(ARGV[9]) - 1)
raise(KEYS[3], ARGV[2], ARGV[4])
local counted, records = {{}}, redis.call('HGETALL', KEYS[4])
for i = 1, #records, 2 do
  if cjson.decode(records[i + 1]).kind == 'checkpoint' then
    table.insert(counted, {{id = tonumber(records[i]), field = records[i], record = records[i + 1]}})
  end
end
table.sort(counted, function(a, b) return a.id < b.id end)
local answer = {{'OK'}}
for i = 1, #counted - tonumber(ARGV[6]) do
  if counted[i].id < tonumber(ARGV[7]) then
    redis.call('HDEL', KEYS[4], counted[i].field)
    table.insert(answer, counted[i].record)
  end
end
return answer
"""

_REMOVE_CHECKPOINT = f"""{_FENCE}
-- KEYS epoch, checkpoints; ARGV epoch, checkpoint
redis.call('HDEL', KEYS[2], ARGV[2])
return {{'OK'}}
"""

# Those of the cleaner: no fence, for they touch nothing but one submission of a job that has ended.

_CLAIM = """
-- KEYS claim; ARGV holder, ttl
local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
"""

_HAS_ENDED = f"""
local function has_ended(jobs, job, submitted)
  local stored = redis.call('HGET', jobs, job)
  if not stored then return false end
  stored = cjson.decode(stored)
  if stored.submitted_ms ~= tonumber(submitted) then return false end
  for _, status in ipairs({{{", ".join(f"'{status.value}'" for status in JobStatus if status.has_ended)}}}) do
    if stored.status == status then return true end
  end
  return false
end
"""

_REMOVE_CHECKPOINTS = f"""{_HAS_ENDED}
-- KEYS jobs, checkpoints; ARGV job, submitted
if not has_ended(KEYS[1], ARGV[1], ARGV[2]) then return 0 end
local records = redis.call('HGETALL', KEYS[2])
for i = 1, #records, 2 do
  if cjson.decode(records[i + 1]).kind == 'checkpoint' then redis.call('HDEL', KEYS[2], records[i]) end
end
return 1
"""

_BEGIN_PURGE = f"""{_HAS_ENDED}
-- KEYS jobs, checkpoints, purging; ARGV job, submitted
if not has_ended(KEYS[1], ARGV[1], ARGV[2]) or redis.call('EXISTS', KEYS[2]) == 1 then return 0 end
redis.call('HSET', KEYS[3], ARGV[1], ARGV[2])
return 1
"""

_PURGE_JOB = """
-- KEYS jobs, checkpoints, completed, purging; ARGV job, submitted
if redis.call('HGET', KEYS[4], ARGV[1]) ~= ARGV[2] then return end
redis.call('HDEL', KEYS[1], ARGV[1])
redis.call('DEL', KEYS[2], KEYS[3])
redis.call('HDEL', KEYS[4], ARGV[1])
"""

# --- the adapter -----------------------------------------------------------------------------------------------------

_ABOVE_ALL_IDS = 2**53
"""Where Lua's numbers end to be exact; no id comes near."""

_UNAVAILABLE = (
    exceptions.ConnectionError,
    exceptions.TimeoutError,
    exceptions.ReadOnlyError,
    exceptions.OutOfMemoryError,
    exceptions.ClusterDownError,
    exceptions.MasterDownError,
    exceptions.TryAgainError,
)
_UNAVAILABLE_CODES = ("MISCONF", "NOREPLICAS", "BUSY", "LOADING")


class RedisRegistry:
    """``ports.Registry``. All registries of one ``namespace`` are the same one.

    ``options`` are keyword options of ``redis.Redis``, for TLS and such.
    """

    def __init__(
        self, url: str, *, namespace: str = "moorage", timeout_ms: int = 5_000, options: Mapping[str, Any] | None = None
    ) -> None:
        where = urlsplit(url)
        self._address = f"{where.hostname}:{where.port or 6379}" if where.hostname else where.path
        self._namespace = namespace
        defaults = {
            "socket_timeout": timeout_ms / 1000,
            "socket_connect_timeout": timeout_ms / 1000,
            "socket_keepalive": True,
            # Every call may be repeated. The default waits for seconds, longer than a lease may last.
            "retry": Retry(ExponentialWithJitterBackoff(cap=0.5, base=0.05), 3),
        }
        try:
            self._redis: Any = redis.Redis.from_url(url, **{**defaults, **(options or {})})
            self._redis.connection_pool.make_connection()  # connects to nobody yet, but looks at the options
        except (ValueError, TypeError) as error:
            raise SettingError(f"Redis at {self._address}: {error}") from None
        scripts = {
            "acquire_lease": _ACQUIRE_LEASE,
            "renew_lease": _RENEW_LEASE,
            "release_lease": _RELEASE_LEASE,
            "lease": _LEASE,
            "save_job": _SAVE_JOB,
            "start_attempt": _START_ATTEMPT,
            "rebuild_job": _REBUILD_JOB,
            "next_checkpoint_id": _NEXT_CHECKPOINT_ID,
            "add_checkpoint": _ADD_CHECKPOINT,
            "remove_checkpoint": _REMOVE_CHECKPOINT,
            "claim": _CLAIM,
            "remove_checkpoints": _REMOVE_CHECKPOINTS,
            "begin_purge": _BEGIN_PURGE,
            "purge_job": _PURGE_JOB,
        }
        self._scripts = {name: self._redis.register_script(text) for name, text in scripts.items()}

    def check(self) -> None:
        """*Blocking.* For the start: RegistryUnavailableError when Redis does not answer; a warning when it would lose
        what it has acknowledged."""
        with self._errors("PING"):
            self._redis.ping()
        try:
            found = self._redis.config_get("append*")
        except exceptions.ResponseError:
            return  # managed services forbid the question
        settings = {_text(name): _text(value) for name, value in found.items()}
        if (settings.get("appendonly"), settings.get("appendfsync")) != ("yes", "always"):
            logger.warning(
                "Redis at %s may lose completed checkpoints in a crash: set appendonly yes and appendfsync always"
                " (they are %s and %s)",
                self._address,
                settings.get("appendonly"),
                settings.get("appendfsync"),
            )

    def close(self) -> None:
        self._redis.close()

    # --- lease -------------------------------------------------------------------------------------------------------

    def acquire_lease(self, holder: str, ttl_ms: int, *, above: Epoch | None = None) -> Lease | None:
        epoch = self._run("acquire_lease", ["epoch", "lease"], [holder, ttl_ms, above or 0])
        return None if epoch is None else Lease(holder=holder, epoch=Epoch(epoch), ttl_ms=ttl_ms)

    def renew_lease(self, holder: str, epoch: Epoch, ttl_ms: int) -> bool:
        return bool(self._run("renew_lease", ["lease"], [holder, epoch, ttl_ms]))

    def release_lease(self, holder: str, epoch: Epoch) -> None:
        self._run("release_lease", ["lease"], [holder, epoch])

    def lease(self) -> Lease | None:
        stored, ttl_ms = self._run("lease", ["lease"], [])
        if stored is None:
            return None
        fields = msgspec.json.decode(stored)
        return Lease(holder=fields["holder"], epoch=Epoch(fields["epoch"]), ttl_ms=ttl_ms)

    # --- jobs --------------------------------------------------------------------------------------------------------

    def jobs(self) -> Sequence[JobRecord]:
        with self._errors("jobs"):
            return [msgspec.json.decode(record, type=JobRecord) for record in self._redis.hvals(self._key("jobs"))]

    def save_job(self, epoch: Epoch, record: JobRecord) -> None:
        arguments = [record.job, record.attempt, msgspec.json.encode(record), record.submitted_ms]
        self._change("save_job", epoch, ["jobs", "attempts", "purging"], arguments, f"job {record.job} can't be saved")

    def start_attempt(self, epoch: Epoch, record: JobRecord, latest: CheckpointId) -> None:
        self._change(
            "start_attempt",
            epoch,
            ["jobs", "attempts", f"checkpoints:{record.job}"],
            [record.job, record.attempt, msgspec.json.encode(record), latest],
            f"attempt {record.attempt} of job {record.job} can't start from checkpoint {latest}",
        )

    def rebuild_job(
        self,
        epoch: Epoch,
        record: JobRecord,
        checkpoints: Sequence[CheckpointRecord],
        completed_ids: Sequence[CheckpointId],
        last_checkpoint_id: CheckpointId,
    ) -> None:
        job = record.job
        pairs = [part for known in checkpoints for part in (known.checkpoint, msgspec.json.encode(known))]
        self._change(
            "rebuild_job",
            epoch,
            ["jobs", "attempts", "checkpoint-ids", f"checkpoints:{job}", f"completed:{job}"],
            [
                job,
                record.attempt,
                msgspec.json.encode(record),
                last_checkpoint_id,
                len(completed_ids),
                *completed_ids,
                *pairs,
            ],
            f"job {job} can't be rebuilt",
        )

    def last_attempt(self, job: JobId) -> Attempt:
        return Attempt(self._number("attempts", job))

    # --- checkpoints -------------------------------------------------------------------------------------------------

    def next_checkpoint_id(self, epoch: Epoch, job: JobId) -> CheckpointId:
        what = f"job {job} gets no checkpoint id"
        (given,) = self._change("next_checkpoint_id", epoch, ["checkpoint-ids"], [job], what)
        return CheckpointId(given)

    def last_checkpoint_id(self, job: JobId) -> CheckpointId:
        return CheckpointId(self._number("checkpoint-ids", job))

    def add_checkpoint(
        self,
        epoch: Epoch,
        job: JobId,
        attempt: Attempt,
        record: CheckpointRecord,
        retain: int,
        keep_from: CheckpointId | None = None,
    ) -> Sequence[CheckpointRecord]:
        subsumed = self._change(
            "add_checkpoint",
            epoch,
            ["jobs", "checkpoint-ids", f"checkpoints:{job}", f"completed:{job}"],
            [
                job,
                attempt,
                record.checkpoint,
                msgspec.json.encode(record),
                retain,
                _ABOVE_ALL_IDS if keep_from is None else keep_from,
                record.base,
                COMPLETED_IDS_KEPT,
                int(record.is_part_of_history),
            ],
            f"checkpoint {record.checkpoint} of attempt {attempt} of job {job} can't be completed",
        )
        return [msgspec.json.decode(one, type=CheckpointRecord) for one in subsumed]

    def checkpoints(self, job: JobId) -> Sequence[CheckpointRecord]:
        with self._errors("checkpoints"):
            stored = self._redis.hvals(self._key(f"checkpoints:{job}"))
            records = [msgspec.json.decode(record, type=CheckpointRecord) for record in stored]
        return sorted(records, key=lambda record: record.checkpoint)

    def remove_checkpoint(self, epoch: Epoch, job: JobId, checkpoint: CheckpointId) -> None:
        what = f"checkpoint {checkpoint} of job {job} can't be removed"
        self._change("remove_checkpoint", epoch, [f"checkpoints:{job}"], [checkpoint], what)

    def completed_ids(self, job: JobId) -> Sequence[CheckpointId]:
        with self._errors("completed_ids"):
            return [CheckpointId(int(number)) for number in self._redis.zrange(self._key(f"completed:{job}"), 0, -1)]

    # --- of the cleaner ----------------------------------------------------------------------------------------------

    def claim(self, work: str, holder: str, ttl_ms: int) -> bool:
        return bool(self._run("claim", [f"claim:{work}"], [holder, ttl_ms]))

    def remove_checkpoints(self, job: JobId, submitted_ms: int) -> bool:
        return bool(self._run("remove_checkpoints", ["jobs", f"checkpoints:{job}"], [job, submitted_ms]))

    def begin_purge(self, job: JobId, submitted_ms: int) -> bool:
        return bool(self._run("begin_purge", ["jobs", f"checkpoints:{job}", "purging"], [job, submitted_ms]))

    def purge_job(self, job: JobId, submitted_ms: int) -> None:
        keys = ["jobs", f"checkpoints:{job}", f"completed:{job}", "purging"]
        self._run("purge_job", keys, [job, submitted_ms])

    # -----------------------------------------------------------------------------------------------------------------

    def _change(self, script: str, epoch: Epoch, keys: list[str], arguments: list[Any], what: str) -> list[Any]:
        """Run a fenced script; what it answers besides OK."""
        answer: list[Any] = self._run(script, ["epoch", *keys], [epoch, *arguments])
        match _text(answer.pop(0)):
            case "FENCED":
                raise FencedError(f"{what} with epoch {epoch}: the epoch is {_text(answer[0])}")
            case "STALE":
                raise StaleAttemptError(f"{what}: {_text(answer[0])}")
            case "BASE":
                raise BaseSubsumedError(f"{what}: the checkpoint that it builds on is gone")
        return answer

    def _run(self, script: str, keys: list[str], arguments: list[Any]) -> Any:
        with self._errors(script):
            return self._scripts[script](keys=[self._key(key) for key in keys], args=arguments)

    def _number(self, key: str, job: JobId) -> int:
        with self._errors(key):
            return int(self._redis.hget(self._key(key), job) or 0)

    def _key(self, name: str) -> str:
        return registry_key(self._namespace, name)

    @contextmanager
    def _errors(self, operation: str) -> Iterator[None]:
        try:
            yield
        except exceptions.RedisError as error:
            message = f"Redis at {self._address}, {operation}: {error}"
            if isinstance(error, _UNAVAILABLE) or str(error).startswith(_UNAVAILABLE_CODES):
                raise RegistryUnavailableError(message) from None
            raise RegistryError(message) from error
        except msgspec.DecodeError as error:
            raise RegistryError(f"Redis at {self._address}, {operation}: a record can't be read: {error}") from error


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value
