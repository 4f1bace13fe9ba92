"""What a request asks for is told by Alpaca's own spelling; any other one that could trade goes nowhere."""

from __future__ import annotations

import pytest

from services.gateway.routes import Kind, Unroutable, route_of


@pytest.mark.parametrize(
    ("method", "path", "kind", "name"),
    [
        ("POST", "/v2/orders", Kind.NEW, ""),
        (
            "PATCH",
            "/v2/orders/61e69015-8549-4bfd-b9c3-01e75843f47d",
            Kind.REPLACE,
            "61e69015-8549-4bfd-b9c3-01e75843f47d",
        ),
        ("DELETE", "/v2/orders", Kind.CANCEL, ""),
        ("DELETE", "/v2/orders/7", Kind.CANCEL, "7"),
        ("DELETE", "/v2/positions", Kind.CLOSE_ALL, ""),
        ("DELETE", "/v2/positions/AAPL", Kind.CLOSE, "AAPL"),
        ("DELETE", "/v2/positions/BTC%2FUSD", Kind.CLOSE, "BTC/USD"),
        ("DELETE", "/v2/positions/BTC/USD", Kind.CLOSE, "BTC/USD"),
        ("POST", "/v2/positions/AAPL240119C00100000/do-not-exercise", Kind.READ, ""),
        (
            "POST",
            "/v2/positions/AAPL240119C00100000/exercise",
            Kind.OTHER,
            "/v2/positions/AAPL240119C00100000/exercise",
        ),
        ("PATCH", "/v2/account/configurations", Kind.OTHER, "/v2/account/configurations"),
        ("POST", "/v2/watchlists", Kind.READ, ""),
        ("POST", "/v9/whatever", Kind.OTHER, "/v9/whatever"),
        ("GET", "/v2/orders:by_client_order_id", Kind.READ, ""),
        ("GET", "/v2/orders/", Kind.READ, ""),
        ("GET", "/", Kind.READ, ""),
        ("HEAD", "/v2/account", Kind.READ, ""),
    ],
)
def test_what_is_asked(method: str, path: str, kind: Kind, name: str) -> None:
    route = route_of(method, path.encode())
    assert (route.kind, route.name) == (kind, name)


@pytest.mark.parametrize(
    "path",
    [
        *("//v2/orders", "/v2//orders", "/v2/orders/", "/v2/orders//", "/V2/orders", "/v2/Orders", "/v2/ORDERS"),
        *("/v2/%6frders", "/v2/%6Frders", "/%762/orders", "/v2%2Forders", "/v2/%256frders", "/v2/orders%2f"),
        *("/v2/./orders", "/v2/x/../orders", "/v2/%2e%2e/v2/orders", "/v2/x%2f..%2forders", "/v1/orders", "/orders"),
        *(
            "/v2/orders;x=1",
            "/v2/orders#",
            "/v2/orders%00",
            "/v2/orders%20",
            "/v2/orders\\",
            "/v2\\orders",
            "/v2/orders:x",
        ),
        *("http://venue/v2/orders", "v2/orders", "*", "", "/v2/orders/7", "/v2/positions", "/v2/positions/AAPL"),
        *("/v2/positions/AAPL/exercise/", "/v2/positions/../orders", "/v2/orders/ ", "/v2/ⅴorders"),
    ],
)
def test_no_other_spelling_is_passed_on_as_a_post(path: str) -> None:
    with pytest.raises(Unroutable):
        route_of("POST", path.encode("utf-8"))


@pytest.mark.parametrize("method", ["PATCH", "PUT", "DELETE"])
@pytest.mark.parametrize(
    "path", ["/v2/orders/a/b", "/V2/orders/7", "/v2/orders/%37", "/v2/positions/..", "/v2/orders/7/"]
)
def test_nor_as_a_change_of_what_works(method: str, path: str) -> None:
    with pytest.raises(Unroutable):
        route_of(method, path.encode())


@pytest.mark.parametrize("method", ["CONNECT", "TRACE", "PROPFIND", "post", "POSTX", ""])
def test_other_methods_go_nowhere(method: str) -> None:
    with pytest.raises(Unroutable) as refused:
        route_of(method, b"/v2/orders")
    assert refused.value.status == 405


@pytest.mark.parametrize("path", ["/v2/stocks/bars", "/v1beta3/crypto/us/latest/quotes", "/v1beta1/news"])
def test_market_data_is_the_data_apis(path: str) -> None:
    assert route_of("GET", path.encode()).is_data
    assert not route_of("GET", b"/v2/assets").is_data
