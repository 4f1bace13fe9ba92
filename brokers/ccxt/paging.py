"""Go on with a list of orders that is longer than one answer. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from brokers.ccxt.venues import Pages


def next_page(pages: Pages, size: int, page: Sequence[Mapping[str, Any]], seen: int, number: int) -> Mapping[str, Any]:
    """What the next request adds, after `number` pages with `seen` items; nothing where `page` was the last.

    A page that is not full is the last one. ccxt sorts each by time, oldest first, whatever the exchange's order is.
    """
    if pages is Pages.ALL_AT_ONCE or len(page) < size:
        return {}
    infos = [item.get("info") or {} for item in page]
    if pages is Pages.CURSOR:
        cursor = next((info["nextPageCursor"] for info in infos if info.get("nextPageCursor")), None)
        return {"cursor": cursor} if cursor else {}
    if pages is Pages.OFFSET:
        return {"offset": seen}
    if pages is Pages.NUMBER:
        return {"currentPage": number + 1}
    oldest = page[0].get("id")
    return {pages.value: oldest} if oldest else {}
