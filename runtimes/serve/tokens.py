"""`python -m jepa_edge.runtimes.serve.tokens`: tokens that name a robot and expire."""

from __future__ import annotations

import time
from contextvars import ContextVar
from pathlib import Path
from typing import Annotated, Any

import typer

from jepa_edge.contract import InputError, MissingExtraError, WrongUseError
from jepa_edge.front import run_app

CALLER: ContextVar[str] = ContextVar("caller", default="")
"""The robot that the current request's token names; empty where no token is asked for."""

LEAST_KEY = 32
"""Bytes of a key for HMAC-SHA-256 (RFC 7518, 3.2)."""

app = typer.Typer(add_completion=False)


class UnknownCallerError(InputError):
    """No token, or one that is wrong or has expired."""


class Guard:
    """Checks bearer tokens (JWT, HS256, RFC 7519) against the key in a file."""

    def __init__(self, key_file: Path | None) -> None:
        self._key = None if key_file is None else key_from(key_file)

    def caller(self, authorization: str) -> str:
        """The robot that the header ``Bearer TOKEN`` names; empty when no key was given.

        Raises `UnknownCallerError`.
        """
        if self._key is None:
            return ""
        jwt = _jwt()
        scheme, _, token = authorization.partition(" ")
        if scheme.lower() != "bearer" or not token:
            raise UnknownCallerError("a token is needed: authorization: Bearer TOKEN")
        try:
            claims = jwt.decode(
                token, self._key, algorithms=["HS256"], options={"require": ["exp", "sub"]}
            )
        except jwt.ExpiredSignatureError as error:
            raise UnknownCallerError("the token has expired; ask for a new one") from error
        except jwt.InvalidTokenError as error:
            raise UnknownCallerError("the token is not one of this server's") from error
        return str(claims["sub"])


def key_from(path: Path) -> bytes:
    """The key in `path`. Raises `WrongUseError` when it is missing or too short."""
    try:
        key = path.read_bytes().strip()
    except OSError as error:
        raise WrongUseError(f"--token-key {path}: cannot read it: {error}") from error
    if len(key) < LEAST_KEY:
        raise WrongUseError(
            f"--token-key {path}: {len(key)} bytes are too few; "
            f"make one with: openssl rand -hex {LEAST_KEY} > {path}"
        )
    return key


def token_for(robot: str, key: bytes, hours: float) -> str:
    """A token that lets `robot` in for `hours` from now."""
    now = time.time()
    claims = {"sub": robot, "iat": int(now), "exp": int(now + hours * 3600)}
    return str(_jwt().encode(claims, key, algorithm="HS256"))


@app.command()
def token(
    robot: Annotated[str, typer.Option(help="The robot it is for; its sessions are its own.")],
    key: Annotated[Path, typer.Option(help="The file that `serve --token-key` reads.")],
    hours: Annotated[float, typer.Option(help="How long it is good for.")] = 12.0,
) -> None:
    """Print a token for a robot.

    Example: python -m jepa_edge.runtimes.serve.tokens --robot drone-7 --key server.key
    """
    typer.echo(token_for(robot, key_from(key), hours))


def _jwt() -> Any:  # noqa: ANN401  (a module without types)
    try:
        import jwt
    except ImportError as error:
        raise MissingExtraError("PyJWT", "cloud") from error
    return jwt


if __name__ == "__main__":
    run_app(app)
