"""
Recording: how an entry gets its seq. Any thread, and whatever interrupts one.

Guarantees:
    * `publish()` gives out seq 1, 2, 3, … in the order in which it stored the entries. A call that raises stored nothing; a
      call that returns stored its entry (or, told to drop it, counted it).
    * A signal handler, a ``__del__`` or a weakref callback may call `publish()` while this very thread is inside it. The
      lock is re-entrant for that; the inner entry is set aside and stored, under the seq it was promised, when the
      outer call goes on.
"""

from __future__ import annotations

import inspect
from types import FrameType

from audit_buffer import _fork
from audit_buffer._channel_core import ChannelCore
from audit_buffer._ring import Payload
from audit_buffer._state import Attention, State
from audit_buffer._turn import wait_for_turn


__all__ = ["Publishing"]

_alive = _fork.alive


class Publishing(ChannelCore):
    """
    The recording side of a channel.
    """

    def publish(self, payload: Payload) -> int:
        """
        Store one encoded entry and return its seq, or 0 when there is no room or the buffer is not open.

        *payload* is the caller's again when this returns. This is the path of `record()`: every line has its reason.
        """
        if not _alive[0]:  # a fork that Python was not told of; the lock may be held for ever in this child
            _fork.after_fork()
        attention = None
        with self._turn as is_mine:
            if not is_mine:
                wait_for_turn(self._lock)
            if self._inside and self._is_reentered():
                return self._publish_set_aside(payload)
            ledger = self._ledger
            self._inside = seq = ledger.published + 1
            stored = ledger.stored_bytes + len(payload)
            try:
                # Below both there is room, the buffer is open, and nobody waits for this entry.
                if seq < self._quiet_below and stored < self._quiet_below_bytes:
                    has_room = self.ring.put(seq, payload)
                    if has_room:
                        ledger.stored_bytes = stored
                        ledger.published = seq
                else:
                    has_room, attention = self._publish_attentively(seq, payload)
            except BaseException:
                # An asynchronous exception may fall between the store into the ring and the two numbers.
                if self.ring.last_seq == seq:
                    ledger.stored_bytes, ledger.published = stored, seq
                raise
            finally:
                while (
                    self._set_aside
                ):  # what interrupts the storing is set aside, too, hence the mark goes last
                    attention = self._store_set_aside()
                self._inside = 0
        if attention:
            self._on_attention(attention)
        return seq if has_room else 0

    def _publish_attentively(self, seq: int, payload: Payload) -> tuple[bool, Attention | None]:
        """
        Store an entry at a threshold or where there may be no room; tell whether there was, and what is asked for.
        """
        ledger = self._ledger
        if not (ledger.has_room(len(payload)) and self.ring.put(seq, payload)):
            return False, None
        ledger.stored_bytes += len(payload)
        ledger.published = seq
        # Absolute thresholds, and no wake-up but where one is crossed.
        if seq >= self._attention_at or ledger.stored_bytes >= self._attention_at_bytes:
            return True, self._attend()
        return True, None

    def drop_newest(self) -> int:
        """
        Use up one seq for an entry that is not stored, and return it; 0 when the buffer is not open.
        """
        with self._lock:
            if self._state is not State.OPEN:
                return 0
            if self._inside and self._is_reentered():
                return self._promise(None)
            seq = self._ledger.published + 1
            self._ledger.drop(seq)
            return seq

    def drop_oldest(self) -> bool:
        """
        Drop the oldest entry that the writer has not taken; tell whether there was one and the buffer is open.
        """
        with self._lock:
            # Not for an entry that comes too late itself: each would take one more with it.
            skipped = self.ring.skip() if self._state is State.OPEN else None
            if skipped is None:
                return False
            self._ledger.skip(skipped[0], len(skipped[1]))
            return True

    def _is_reentered(self) -> bool:
        """
        Tell whether the call that asks interrupts `publish()` further down its own stack.

        If not, an exception left the mark behind, perhaps with entries that were promised a place: they are stored.
        """
        frame = inspect.currentframe()
        if self._stands_below(frame.f_back.f_back if frame and frame.f_back else None):
            return True
        while self._set_aside:
            self._store_set_aside()
        self._inside = 0
        return False

    def _stands_below(self, frame: FrameType | None) -> bool:
        while frame is not None:
            if frame.f_code is _PUBLISH and frame.f_locals.get("self") is self:
                return True
            frame = frame.f_back
        return False

    def _publish_set_aside(self, payload: Payload) -> int:
        """
        Promise a place behind the interrupted call's entry; it is stored when that call goes on.
        """
        ahead = 1 + len(self._set_aside)
        size = sum(len(other) for (other,) in list(self._set_aside.values()) if other) + len(payload)
        ledger = self._ledger
        if ledger.pending + ahead >= ledger.capacity or ledger.pending_bytes + size > ledger.max_bytes:
            return 0
        if not self.ring.fits(2 * ahead + 1, size + self._interrupted_bytes()):
            return 0
        return self._promise(bytes(payload))  # the caller goes on before it is stored

    def _interrupted_bytes(self) -> int:
        """
        Return the size of all entries whose calls of `publish()` stand on this stack, up to the first one; stored or not.
        """
        size, frame = 0, inspect.currentframe()
        while frame is not None:
            if frame.f_code is _PUBLISH and frame.f_locals.get("self") is self:
                size += len(frame.f_locals["payload"])
                if "seq" in frame.f_locals:
                    break  # the call that stores; it came first
            frame = frame.f_back
        return size

    def _promise(self, payload: bytes | None) -> int:
        # This may be interrupted by another promise at any point but inside setdefault(): whose place it is, it tells.
        place = [payload]
        seq = max(self._inside, self._ledger.published) + 1
        while self._set_aside.setdefault(seq, place) is not place:
            seq += 1
        return seq

    def _store_set_aside(self) -> Attention:
        """
        Store what was promised a seq behind that of a call that was interrupted.

        Whatever interrupts this is set aside as well, and a call that finds it half done does the rest.
        """
        ledger = self._ledger
        if (
            ledger.published < self._inside
        ):  # it stored nothing: its number stays empty, and the gap row says so
            ledger.drop(self._inside)
        while self._set_aside:
            seq = min(self._set_aside)
            (payload,) = self._set_aside[seq]
            if seq > ledger.published:
                if payload is not None and (self.ring.last_seq == seq or self.ring.put(seq, payload)):
                    ledger.stored_bytes += len(payload)
                    ledger.published = seq
                else:
                    ledger.drop(seq)
            del self._set_aside[seq]
        return self._attend()


# For `_is_reentered()`: how a call of publish() looks on the stack.
_PUBLISH = Publishing.publish.__code__
