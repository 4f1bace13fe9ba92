"""A small OpenID Connect provider over HTTP that knows one person, and lies on request."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import secrets
import socket
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qsl

import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, RedirectResponse, Response
from joserfc import jwt
from joserfc.jwk import KeySet, RSAKey

from tests.helpers import eventually

CLIENT, SECRET = "breaker-console", "the client's secret"
Claims = dict[str, Any]


class IdentityProvider:
    """Signs `person` in without asking. `change` is given each ID token's claims, `sign` makes the token of them."""

    def __init__(self) -> None:
        self.key = RSAKey.generate_key(2048, {"kid": "first", "use": "sig"}, private=True)
        self.person: Claims = {"sub": "0815", "preferred_username": "Olga", "groups": ["desk"]}
        self.change: Callable[[Claims], Claims] = lambda claims: claims
        self.sign: Callable[[Claims], str] = self.signed
        self.refuses = False
        self.hangs = threading.Event()
        self.asked: list[dict[str, str]] = []
        """Every authorization request."""
        self.codes: dict[str, dict[str, str]] = {}
        self._socket = socket.socket()
        self._socket.bind(("127.0.0.1", 0))
        self.issuer = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        self.named_issuer = self.issuer
        self._server = uvicorn.Server(uvicorn.Config(self._app(), log_level="warning", lifespan="off"))
        self._thread = threading.Thread(target=lambda: asyncio.run(self._server.serve([self._socket])))

    def __enter__(self) -> Self:
        self._thread.start()
        eventually(lambda: self._server.started)
        return self

    def stop(self) -> None:
        self.hangs.clear()
        self._server.should_exit = True
        self._thread.join(30)
        assert not self._thread.is_alive()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.stop()

    # --- tokens, honest and not ---

    def signed(self, claims: Claims) -> str:
        return jwt.encode({"alg": "RS256", "kid": str(self.key.kid)}, claims, self.key)

    def signed_by_another(self, claims: Claims) -> str:
        return jwt.encode({"alg": "RS256", "kid": "first"}, claims, RSAKey.generate_key(2048))

    def unsigned(self, claims: Claims) -> str:
        return f"{_part({'alg': 'none'})}.{_part(claims)}."

    def signature_removed(self, claims: Claims) -> str:
        return self.signed(claims).rpartition(".")[0] + "."

    def payload_changed(self, claims: Claims) -> str:
        header, _, signature = self.signed(claims).split(".")
        return f"{header}.{_part({**claims, 'groups': ['chiefs']})}.{signature}"

    def signed_by_the_public_key(self, claims: Claims) -> str:
        """As if what everybody knows were a shared secret."""
        text = f"{_part({'alg': 'HS256', 'kid': 'first'})}.{_part(claims)}"
        return f"{text}.{_base64(hmac.digest(self.key.as_pem(private=False), text.encode(), 'sha256'))}"

    def no_token(self, claims: Claims) -> str:
        return "not a token"

    # --- what is served ---

    def _app(self) -> FastAPI:
        app = FastAPI()

        @app.middleware("http")
        async def hang(request: Request, call_next: Any) -> Response:
            while self.hangs.is_set():
                await asyncio.sleep(0.02)
            answer: Response = await call_next(request)
            return answer

        @app.get("/.well-known/openid-configuration")
        def discovery() -> dict[str, str]:
            places = {"authorization_endpoint": "/authorize", "token_endpoint": "/token", "jwks_uri": "/keys"}
            return {"issuer": self.named_issuer} | {name: self.issuer + path for name, path in places.items()}

        @app.get("/keys")
        def keys() -> Any:
            return KeySet([self.key]).as_dict(private=False)

        @app.get("/authorize")
        def authorize(state: str, redirect_uri: str, nonce: str, code_challenge: str, scope: str) -> Response:
            self.asked.append({"state": state, "redirect_uri": redirect_uri, "nonce": nonce, "scope": scope})
            if self.refuses:
                return RedirectResponse(f"{redirect_uri}?error=access_denied&state={state}", 303)
            code = secrets.token_urlsafe(16)
            self.codes[code] = {"nonce": nonce, "challenge": code_challenge, "redirect_uri": redirect_uri}
            return RedirectResponse(f"{redirect_uri}?code={code}&state={state}", 303)

        @app.post("/token")
        async def token(request: Request) -> Response:
            credentials = base64.b64decode(request.headers["authorization"].removeprefix("Basic ")).decode()
            if credentials != f"{CLIENT}:{SECRET}":
                return JSONResponse({"error": "invalid_client"}, 401)
            return await asyncio.to_thread(redeem, dict(parse_qsl((await request.body()).decode())))

        def redeem(asked: dict[str, str]) -> Response:
            begun = self.codes.pop(asked["code"], None)
            challenge = (
                base64.urlsafe_b64encode(hashlib.sha256(asked["code_verifier"].encode()).digest()).rstrip(b"=").decode()
            )
            if begun is None or begun["challenge"] != challenge or begun["redirect_uri"] != asked["redirect_uri"]:
                return JSONResponse({"error": "invalid_grant"}, 400)
            now = int(time.time())
            claims = {"iss": self.issuer, "aud": CLIENT, "iat": now, "exp": now + 300, "nonce": begun["nonce"]}
            id_token = self.sign(self.change(claims | self.person))
            return JSONResponse({"access_token": "x", "token_type": "Bearer", "id_token": id_token})

        return app


def _part(content: Claims) -> str:
    return _base64(json.dumps(content).encode())


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
