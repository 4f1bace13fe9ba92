"""Remember what has left without a reservation until a reading of the account has it.

While trading is open the gate reserves nothing, and a close of everything has no order of its own. After a trip both
still take from what is held, and a second close beside them would cross zero.
"""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass

from services.gateway.orders import Asked


@dataclass(slots=True)
class _Sent:
    asked: Asked
    left: float
    answered: float | None = None
    is_refused: bool = False


class OnTheirWay:
    """Those of one gateway. Used from one event loop.

    Args:
        unanswered_for: Seconds for which one whose outcome isn't known counts.
        answered_for: Seconds after an answer from which every reading that is still believed has begun later.
    """

    def __init__(self, unanswered_for: float, answered_for: float) -> None:
        self._unanswered_for = unanswered_for
        self._answered_for = answered_for
        self._sent: deque[_Sent] = deque()
        self._open: dict[int, _Sent] = {}

    def left(self, asked: Asked) -> None:
        """Its first byte leaves now."""
        now = time.monotonic()
        while self._sent and self._is_over(self._sent[0], now):
            gone = self._sent.popleft()
            self._open.pop(id(gone.asked), None)
        sent = _Sent(asked, now)
        self._sent.append(sent)
        self._open[id(asked)] = sent

    def answered(self, asked: Asked) -> None:
        """The venue has it: a reading that begins from now on does, too."""
        sent = self._open.pop(id(asked), None)
        if sent is not None:
            sent.answered = time.monotonic()

    def refused(self, asked: Asked) -> None:
        """Nothing will come of it."""
        sent = self._open.pop(id(asked), None)
        if sent is not None:
            sent.answered, sent.is_refused = sent.left, True

    def since(self, begun: float) -> list[Asked]:
        """What a reading that began then may lack."""
        now = time.monotonic()
        return [each.asked for each in self._sent if self._counts(each, begun) and not self._is_over(each, now)]

    def _counts(self, sent: _Sent, begun: float) -> bool:
        return not sent.is_refused and (sent.answered is None or sent.answered >= begun)

    def _is_over(self, sent: _Sent, now: float) -> bool:
        if sent.answered is None:
            return now >= sent.left + self._unanswered_for
        return now >= sent.answered + self._answered_for
