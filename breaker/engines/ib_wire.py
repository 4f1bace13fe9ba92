"""Look at ib_async's messages about orders where they leave for the socket, and write one without sending it."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any, Final

from ib_async import Client, Contract, Order


class Wire:
    """ib_async's connection, but that orders are looked at as they leave: after its throttle, before the socket."""

    def __init__(self, connection: Any, leaves: Callable[[str, int, bytes], bool]) -> None:
        self._connection = connection
        self._leaves = leaves

    def sendMsg(self, msg: bytes) -> None:
        """`msg`: four bytes of length, then fields that end with a zero."""
        kind = _KINDS.get(msg[4:6])
        if kind is None or self._leaves(kind[0], _number(msg, kind[1]), msg):
            self._connection.sendMsg(msg)

    @property
    def transport(self) -> Any:
        """Asked for with each order, for which `__getattr__` is too slow."""
        return self._connection.transport

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)


class _Draft:
    """A client that sends nothing, for ib_async's own writing of messages."""

    isConnected = staticmethod(lambda: True)
    send = Client.send
    message = b""

    def __init__(self, client: Client) -> None:
        self.serverVersion = client.serverVersion

    def sendMsg(self, msg: str) -> None:
        self.message = struct.pack(">I", len(msg.encode())) + msg.encode()


def written(client: Client, order_id: int, contract: Contract, order: Order) -> bytes:
    """The message by which an order would leave."""
    draft: Any = _Draft(client)
    Client.placeOrder(draft, order_id, contract, order)
    return bytes(draft.message)


_KINDS: Final = {
    b"3\0": ("placeOrder", 1),
    b"4\0": ("cancelOrder", 2),
    b"21": ("exerciseOptions", 2),
    b"58": ("reqGlobalCancel", 0),
}
"""By how a message begins: what it is, and in which field its order's number is."""


def _number(msg: bytes, field: int) -> int:
    return int(msg[4:].split(b"\0", field + 1)[field]) if field else 0
