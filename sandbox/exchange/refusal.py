"""Say no as a venue does: a status, a code and a message, in Alpaca's words."""

from __future__ import annotations


class Refusal(Exception):
    """The exchange says no: HTTP status, Alpaca's code and message, and any further fields of the error body.

    Attributes:
        rule: which of the rules for orders was broken, in a few words; empty for a refusal of another kind.
    """

    def __init__(self, status: int, code: int, message: str, *, rule: str = "", **extra: object) -> None:
        super().__init__(message)
        self.status = status
        self.rule = rule
        self.body: dict[str, object] = {**extra, "code": code, "message": message}


def not_found(message: str) -> Refusal:
    return Refusal(404, 40410000, message)


def unprocessable(message: str, rule: str = "") -> Refusal:
    return Refusal(422, 42210000, message, rule=rule)


def forbidden(message: str, rule: str = "", **extra: object) -> Refusal:
    return Refusal(403, 40310000, message, rule=rule, **extra)


def invalid(message: str) -> Refusal:
    return Refusal(422, 40010001, message)
