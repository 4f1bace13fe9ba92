"""Say no as a venue does: a status, a code and a message, in Alpaca's words."""

from __future__ import annotations


class Refusal(Exception):
    """The exchange says no: HTTP status, Alpaca's code and message, and any further fields of the error body."""

    def __init__(self, status: int, code: int, message: str, **extra: object) -> None:
        super().__init__(message)
        self.status = status
        self.body: dict[str, object] = {**extra, "code": code, "message": message}


def not_found(message: str) -> Refusal:
    return Refusal(404, 40410000, message)


def unprocessable(message: str) -> Refusal:
    return Refusal(422, 42210000, message)


def invalid(message: str) -> Refusal:
    return Refusal(422, 40010001, message)
