"""
The rings of ended processes on their way into the sink: one ring after the other, one batch at a time, each entry once.

Called by whoever steps the writer, or by `audit-buffer recover`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from uuid import UUID

import attrs

from audit_buffer._delivery import Delivery, OnQuarantined
from audit_buffer._restoring import AdoptedRing, OnLost, Restoring
from audit_buffer._timing import batch_bounds, batch_byte_bounds
from audit_buffer.config import BufferConfig
from audit_buffer.errors import IntegrityAlarm, RingCorrupt, RingError
from audit_buffer.sinks._protocol import Batch, Sink


__all__ = ["Adoption", "Orphan"]


class Orphan(Delivery):
    """
    A ring whose process is gone, on its way into the sink.

    After an integrity alarm nothing is released until all is delivered: killed in between, the next process meets the same
    alarm at the same entry, and comes to the same new buffer_id.
    """

    def __init__(
        self,
        ring: AdoptedRing,
        sink: Sink,
        *,
        on_quarantined: OnQuarantined = lambda error: None,
        restoring: Restoring | None = None,
    ) -> None:
        super().__init__(sink, in_doubt=True, on_quarantined=on_quarantined, restoring=restoring)
        self.ring = ring
        self._may_have_lost = self._restoring is not None and ring.retained_seq < ring.committed_seq
        self._after = ring.committed_seq
        self._in_hand: Batch | None = None
        self._continued_as: UUID | None = None

    @property
    def buffer_id(self) -> UUID:
        """
        Return under which buffer_id the ring is delivered.
        """
        return self._continued_as or self.ring.buffer_id

    def next_batch(self, config: BufferConfig) -> Batch | None:
        """
        Return the batch in hand, or take the next one; None when the ring holds no more.
        """
        if self._in_hand is None:
            _, most = batch_bounds(config.batch_size, sys.maxsize)
            most_bytes, _ = batch_byte_bounds(config.batch_max_bytes, sys.maxsize)
            entries = self.ring.take(most, most_bytes)
            if not entries and not self._may_have_lost:
                if self._continued_as is not None:
                    self.ring.release(self._after)
                return None
            # Without entries it is only asked whether the sink still has what it had.
            through = entries[-1][0] if entries else self._after
            self._in_hand = Batch(
                buffer_id=self.buffer_id, after=self._after, through=through, stored=entries, policy="unknown"
            )
        return self._in_hand

    def go_on_as(self, alarm: IntegrityAlarm) -> None:
        """
        Deliver the rest of the ring under a buffer_id of its own.
        """
        super().go_on_as(alarm)
        self._continued_as = alarm.continued_as
        if self._in_hand is not None:
            self._in_hand = attrs.evolve(self._in_hand, buffer_id=self.buffer_id)

    def committed(self, batch: Batch) -> None:
        """
        Note that *batch* is in the sink.
        """
        self._after = batch.through
        self._in_hand = None
        self._may_have_lost = False
        if self._continued_as is None:
            self.ring.release(batch.through)


class Adoption:
    """
    Delivers what the ring files of ended processes still hold, one ring after the other, one batch at a time.

    Args:
        rings: Yields each orphan, locked, when its turn comes.
        on_damage: Told of each ring that was set aside.
        on_quarantined: Told of each entry that was set aside.

    Attributes:
        on_lost: Told of what the sink had and has no more.
    """

    def __init__(
        self,
        rings: Iterator[AdoptedRing],
        sink: Sink,
        config: BufferConfig,
        on_damage: Callable[[RingError], None],
        on_quarantined: OnQuarantined = lambda error: None,
    ) -> None:
        self._rings = rings
        self._sink = sink
        self._config = config
        self._on_damage = on_damage
        self.on_quarantined = on_quarantined
        self.on_lost: OnLost = lambda loss: None
        self._orphan: Orphan | None = None
        self.done = False
        self.entries = 0

    def next_batch(self) -> tuple[Orphan, Batch] | None:
        """
        Return the next batch and where it comes from; None, and *done* is set, when there is no orphan left.
        """
        while not self.done:
            if self._orphan is None:
                ring = next(self._rings, None)
                if ring is None:
                    self.done = True
                    break
                # Where a position is set for a buffer_id that is to be continued, none means that it is gone.
                may_be_new = not hasattr(self._sink, "begin")
                restoring = Restoring(ring, self._config, self.on_lost, may_be_new=may_be_new)
                self._orphan = Orphan(
                    ring, self._sink, on_quarantined=self.on_quarantined, restoring=restoring
                )
            batch = self._orphan.next_batch(self._config)
            if batch is not None:
                return self._orphan, batch
            ring, self._orphan = self._orphan.ring, None
            self._retire(ring)
        return None

    def _retire(self, ring: AdoptedRing) -> None:
        if ring.damage is None:
            if ring.torn is not None:
                self._on_damage(
                    RingError(f"a power cut took what was not synced: {ring.torn}", path=ring.path)
                )
            ring.close()
            return
        aside = ring.set_aside(ring.damage)
        self._on_damage(
            RingCorrupt(f"{ring.damage}; the intact prefix was delivered, the file was set aside", path=aside)
        )

    def close(self) -> None:
        """
        Leave what is left to the next start.
        """
        self.done = True
        if self._orphan is not None:
            self._orphan.ring.close()
            self._orphan = None
