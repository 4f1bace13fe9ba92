"""Draw a book of everything at once, in a session, at a venue in trouble: one for each seed.

Equities, fractions, crypto, options alone and in spreads, covered calls, dust, orders for an amount and orders with
legs; beside them what nobody can read, what resists, halts, refused exits, fills that race, and a venue whose clock,
account and assets fail at random.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

PLAIN = ("open", "open", "extended", "closed")


@dataclass(frozen=True)
class MixedBook:
    """`toml` is the scenario; the rest is what may be expected of it."""

    toml: str
    session_is_told: bool
    """Whether the venue's clock always answers."""
    whole_shares: bool
    """Whether the venue takes no fractions outside its session."""
    opens_soon: bool
    """Whether the market opens while the book is being closed or a moment later."""

    def may_break(self) -> set[str]:
        """Rules that an order may break for want of knowing better: the minimum, a pair's step, and the session's."""
        guessed = not self.session_is_told or self.whole_shares
        return {"minimum", "price step"} | ({"session"} if guessed else set())


def mixed_book(seed: int) -> MixedBook:
    """The same for the same seed."""
    random = Random(seed)
    session_is_told = random.random() < 0.5
    whole_shares = random.random() < 0.3
    switches = [
        f"enforce_available = {str(random.random() < 0.5).lower()}",
        f"fractions_outside_session = {str(not whole_shares).lower()}",
        f"legs_listed_apart = {str(random.random() < 0.3).lower()}",
        f"sales_have_minimum_cost = {str(random.random() < 0.3).lower()}",
        f"latency_ms = {random.choice([0, 10])}",
    ]
    toml = "\n".join(switches) + "\n" + _book(random) + _market(random) + _fills(random) + _cancels(random)
    toml += _halts(random) + _refusals(random)
    if not session_is_told:
        toml += _trouble(random, "GET /v2/clock", random.choice([0.3, 0.7, 1.0]))
    for route in ("GET /v2/account", "GET /v2/assets*"):
        toml += _trouble(random, route, random.choice([0.0, 0.5, 1.0]))
    return MixedBook(toml + _beside(random), session_is_told, whole_shares, "opens_after" in toml)


def _book(random: Random) -> str:
    counts = {
        "orders": random.randint(0, 12),
        "positions": random.randint(0, 6),
        "fractional": 0.6,
        "brackets": random.randint(0, 2),
        "pending_replace": random.choice([0, 0, 1]),
        "pending_replace_for": random.choice([2, 6]),
        "crypto": random.randint(0, 3),
        "options": random.randint(0, 3),
        "spreads": random.randint(0, 2),
        "covered_calls": random.randint(0, 1),
        "dust": random.randint(0, 2),
        "notional": random.randint(0, 2),
        "multi_leg": random.randint(0, 2),
        "unreadable_orders": random.choice([0, 0, 1, 2]),
        "unreadable_positions": random.choice([0, 0, 0, 1]),
    }
    return "[book]\n" + "".join(f"{name} = {count}\n" for name, count in counts.items())


def _market(random: Random) -> str:
    session = random.choice(PLAIN)
    opens = f"opens_after = {random.choice([1, 4])}\n" if session != "open" and random.random() < 0.25 else ""
    return f'[market]\nsession = "{session}"\n{opens}'


def _fills(random: Random) -> str:
    return (
        f"[fills]\ndelay = {{ low = 0.0, high = {random.choice([0.1, 0.6])} }}\n"
        f"partial_probability = {random.choice([0, 0.3])}\nstall_probability = {random.choice([0, 0.1])}\n"
    )


def _cancels(random: Random) -> str:
    return (
        f"[cancels]\ndelay = {{ low = 0.0, high = {random.choice([0.0, 0.5])} }}\n"
        f"race_probability = {random.choice([0, 0.1])}\nbulk_leaves = {random.choice([0, 0, 6])}\n"
    )


def _halts(random: Random) -> str:
    mode, until = random.choice(["reject", "hold"]), random.choice(["", "until = 5\n"])
    return f'[[halts]]\ncount = {random.randint(1, 2)}\nmode = "{mode}"\n{until}' if random.random() < 0.35 else ""


def _refusals(random: Random) -> str:
    return "[[exit_refusals]]\nprobability = 0.5\nuntil = 4\n" if random.random() < 0.2 else ""


def _beside(random: Random) -> str:
    """Trouble on the ways that are needed, each for a while."""
    toml = ""
    if random.random() < 0.3:
        toml += '[[trouble]]\nkind = "401"\nprobability = 0.2\nuntil = 12\n'
    if random.random() < 0.2:
        toml += '[[trouble]]\nkind = "403"\nroutes = ["DELETE /v2/orders"]\n'
    if random.random() < 0.3:
        toml += '[[trouble]]\nkind = "503"\nprobability = 0.1\n'
    if random.random() < 0.3:
        toml += '[[trouble]]\nkind = "drop"\napplied = true\nprobability = 0.05\n'
    return toml


def _trouble(random: Random, route: str, probability: float) -> str:
    kind = random.choice(["500", "503", "504", "drop", "401", "403"])
    return f'[[trouble]]\nkind = "{kind}"\nroutes = ["{route}"]\nprobability = {probability}\n'
