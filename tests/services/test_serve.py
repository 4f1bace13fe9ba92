"""What serves the deployments says in one line why it can't."""

from __future__ import annotations

import httpx
import pytest

from services import serve


def test_a_prefect_that_refuses_the_credentials_ends_it_with_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def refused() -> None:
        request = httpx.Request("GET", "http://prefect.example/api/deployments")
        raise httpx.HTTPStatusError("refused", request=request, response=httpx.Response(401))

    monkeypatch.setattr(serve, "_serve", refused)
    assert serve.main() == 2
    said = capsys.readouterr().err
    assert "refuses the credentials (401)" in said and "Nothing is served" in said and said.count("\n") == 1


def test_a_mistake_of_our_own_is_not_taken_for_one_of_prefects(monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken() -> None:
        raise RuntimeError("ours")

    monkeypatch.setattr(serve, "_serve", broken)
    with pytest.raises(RuntimeError, match="ours"):
        serve.main()
