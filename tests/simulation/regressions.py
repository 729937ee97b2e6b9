"""Seeds that found a bug once. A seed's run changes with the code, so each bug has a unit test too if one can show it.

5, 93   two exactly-once sinks share the partitions of the commits topic: the open transaction of one hid the commit
        markers of the other, which then wrote again what it had committed
510     a dead worker's last heartbeat reached a new coordinator late and replaced the worker's successor for good
"""

from __future__ import annotations

SEEDS = (5, 93, 510)
