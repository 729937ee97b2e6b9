"""The judge of a run: told what went in and what came out, it counts what is lost, doubled, late or wrong.

It is made for jobs that give one output per input and number them per key, like a running count. Inputs are numbered 1,
2, ... per key in the order in which they are handed over; an output names the key and the number of the input that it
answers, and carries a value that only the right history of that key gives (a running total, a checksum).
"""

from __future__ import annotations

from collections.abc import Hashable
from enum import Enum

import msgspec


class Verdict(Enum):
    """What one output is."""

    EXPECTED = "expected"
    DUPLICATED = "duplicated"
    """Its input was answered before."""
    OUT_OF_ORDER = "out_of_order"
    """The first answer to its input, but later than the answer to a later input of that key."""
    CORRUPT = "corrupt"
    """It answers no input, or not with the value that the input must give."""


class OracleReport(msgspec.Struct, frozen=True, kw_only=True):
    """Counts of records."""

    inputs: int
    outputs: int
    lost: int
    """Inputs without any answer."""
    duplicated: int
    out_of_order: int
    corrupt: int

    @property
    def exactly_once(self) -> bool:
        return not (self.lost or self.duplicated or self.out_of_order or self.corrupt)


class _Key:
    __slots__ = ("answered", "highest", "values")

    def __init__(self) -> None:
        self.values: list[object] = []
        self.answered = bytearray()
        self.highest = 0


class Oracle:
    """Inputs are expected before their outputs are observed; both may go on in turns."""

    def __init__(self) -> None:
        self._keys: dict[Hashable, _Key] = {}
        self._inputs = 0
        self._answered = 0
        self._verdicts = dict.fromkeys(Verdict, 0)

    def expect(self, key: Hashable, value: object) -> int:
        """An input of ``key`` goes in, and its output must carry ``value``: returns the input's number."""
        entry = self._keys.get(key)
        if entry is None:
            entry = self._keys[key] = _Key()
        entry.values.append(value)
        entry.answered.append(0)
        self._inputs += 1
        return len(entry.values)

    def observe(self, key: Hashable, number: int, value: object) -> Verdict:
        """An output came, in the order of its partition."""
        verdict = self._judge(key, number, value)
        self._verdicts[verdict] += 1
        return verdict

    def _judge(self, key: Hashable, number: int, value: object) -> Verdict:
        entry = self._keys.get(key)
        if entry is None or not 1 <= number <= len(entry.values):
            return Verdict.CORRUPT
        if entry.answered[number - 1]:
            return Verdict.DUPLICATED
        entry.answered[number - 1] = 1
        self._answered += 1
        late = number < entry.highest
        entry.highest = max(entry.highest, number)
        if entry.values[number - 1] != value:
            return Verdict.CORRUPT
        return Verdict.OUT_OF_ORDER if late else Verdict.EXPECTED

    @property
    def inputs(self) -> int:
        return self._inputs

    def highest_inputs(self) -> dict[Hashable, int]:
        """Number of the newest input of every key."""
        return {key: len(entry.values) for key, entry in self._keys.items()}

    def report(self) -> OracleReport:
        return OracleReport(
            inputs=self._inputs,
            outputs=sum(self._verdicts.values()),
            lost=self._inputs - self._answered,
            duplicated=self._verdicts[Verdict.DUPLICATED],
            out_of_order=self._verdicts[Verdict.OUT_OF_ORDER],
            corrupt=self._verdicts[Verdict.CORRUPT],
        )
