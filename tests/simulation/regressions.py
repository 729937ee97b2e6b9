"""Seeds that found a bug once. A seed's run changes with the code, so each bug has a unit test too if one can show it.

5, 93   two exactly-once sinks share the partitions of the commits topic: the open transaction of one hid the commit
        markers of the other, which then wrote again what it had committed
31      a source straight before a sink: after a rescale its partitions went to other key groups, so two sinks committed
        them on their own, and newer records came before older ones
38      a job that goes on from a savepoint built its first checkpoint on the savepoint's files, under wrong names
1       the cleaner cut the exchange logs of such a job by what its earlier life had retained
0, 30   checkpoints that don't align came faster than sinks commit: their barriers alone kept producers blocked
706     the barriers of concurrent checkpoints alone passed the limit of what an alignment may hold back
219     a rescale of a vertex that had partly finished: who took over the partitions of finished subtasks read them anew
510     a dead worker's last heartbeat reached a new coordinator late and replaced the worker's successor for good
200290  a drained source that had ended by itself kept its state in the savepoint, though those behind it had finished,
        so the savepoint could not be restored
"""

from __future__ import annotations

SEEDS = (0, 1, 5, 30, 31, 38, 93, 219, 510, 706, 200_290)
