"""Where the server listens, and who may call: checked before anything heavy is imported."""

from __future__ import annotations

from pathlib import Path

import msgspec

from jepa_edge.contract import WrongUseError


class Endpoint(msgspec.Struct, frozen=True, kw_only=True):
    """Where to listen, and who may call. Port 0 takes a free one; `http_port` None: no REST."""

    host: str = "127.0.0.1"
    port: int = 8001
    http_port: int | None = 8000
    token_key: Path | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None
    most_bytes: int = 16 << 20
    callers: int = 64
    insecure: bool = False

    def __post_init__(self) -> None:
        """Raises `WrongUseError` for what would let anyone in, or cannot be."""
        if (self.tls_cert is None) != (self.tls_key is None):
            raise WrongUseError("--tls-cert and --tls-key go together")
        loopback = self.host in ("127.0.0.1", "localhost", "::1")
        if not loopback and not self.insecure and not (self.token_key and self.tls_cert):
            raise WrongUseError(
                f"--host {self.host} is open to the network: give --token-key, --tls-cert and "
                "--tls-key, or --insecure where something in front does that"
            )
