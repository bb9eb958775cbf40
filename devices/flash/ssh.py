"""A device at the other end of SSH, and the agent on it.

The user's own OpenSSH configuration, agent and known_hosts count, and an unknown host key is
refused: whoever flashes a vehicle must know which one.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import shlex
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import PurePosixPath
from typing import Any

from jepa_edge.contract import CheckFailedError, InputError, MissingExtraError
from jepa_edge.devices.flash.agent_file import agent_bytes

try:
    import asyncssh
except ImportError as error:
    raise MissingExtraError("asyncssh", "flash") from error

CONNECT_S = 20.0
SILENT_S = 15
"""A connection that says nothing for three times this long is given up."""


class DeviceError(CheckFailedError):
    """What the agent refused; `code` is its word for why."""

    def __init__(self, host: str, code: str, message: str) -> None:
        super().__init__(f"{host}: {message}")
        self.code = code


class LostError(CheckFailedError):
    """The connection broke; doing the same again goes on where it stopped."""


class Device:
    """One connected device."""

    def __init__(self, host: str, connection: asyncssh.SSHClientConnection, root: str) -> None:
        self.host, self.connection, self.root = host, connection, PurePosixPath(root)
        self._prefix = ""

    async def bootstrap(self) -> None:
        """Puts this version's agent on the device, in one step, where another one is."""
        if await self._shell("id -u") != "0":
            self._prefix = "sudo -n "
            await self._shell("sudo -n true")
        agent = agent_bytes()
        digest = hashlib.sha256(agent).hexdigest()
        path = shlex.quote(str(self.root / "agent.pyz"))
        there = await self._shell(f"{self._prefix}sha256sum {path} 2>/dev/null || true")
        if there.split(" ")[0] == digest:
            return
        folder, part = shlex.quote(str(self.root)), shlex.quote(str(self.root / ".agent.part"))
        script = f"mkdir -p {folder} && cat > {part} && sync {part} && mv {part} {path} && sync"
        await self._shell(f"{self._prefix}sh -c {shlex.quote(script)}", agent)

    async def agent(self, *arguments: str, data: bytes = b"") -> dict[str, Any]:
        """The agent's answer to one command. Raises `DeviceError` when it refuses."""
        async with self._process(*arguments) as process:
            out, err = await _lost_or(self.host, process.communicate(data))
            return answer_from(self.host, bytes(out or b""), bytes(err or b""))

    @asynccontextmanager
    async def _process(self, *arguments: str) -> AsyncIterator[asyncssh.SSHClientProcess[bytes]]:
        argv = ["python3", str(self.root / "agent.pyz"), "--root", str(self.root), *arguments]
        line = self._prefix + shlex.join(argv)
        process = await _lost_or(self.host, self.connection.create_process(line, encoding=None))
        try:
            yield process
        finally:
            process.close()

    @asynccontextmanager
    async def agent_stream(
        self, *arguments: str
    ) -> AsyncIterator[asyncssh.SSHClientProcess[bytes]]:
        """The agent command as a process, to stream to or from."""
        async with self._process(*arguments) as process:
            yield process

    async def lines(self, *arguments: str) -> AsyncIterator[dict[str, Any]]:
        """Each JSON object the agent prints, as it prints it; the last one is its answer."""
        async with self._process(*arguments) as process:
            last = b""
            while line := await _lost_or(self.host, process.stdout.readline()):
                last = line
                yield answer_from(self.host, line, b"")
            if not last:
                raise LostError(f"{self.host}: the connection was lost")

    async def logs(self, *, lines: int, follow: bool) -> AsyncIterator[str]:
        """The service's log, a line at a time."""
        argv = ["journalctl", "--namespace=jepa-edge", "--no-pager", "-o", "short-iso"]
        argv += ["-n", str(lines), *(["-f"] if follow else [])]
        line = self._prefix + shlex.join(argv)
        async with self.connection.create_process(line) as process:
            async for text in process.stdout:
                yield text.rstrip("\n")

    async def _shell(self, line: str, data: bytes | None = None) -> str:
        done = await _lost_or(
            self.host, self.connection.run(line, input=data, encoding=None, check=False)
        )
        if done.exit_status != 0:
            said = bytes(done.stderr or b"").decode(errors="replace").strip()
            raise DeviceError(self.host, "shell", f"{line.split(' ')[0]} failed: {said}")
        return bytes(done.stdout or b"").decode(errors="replace").strip()


@asynccontextmanager
async def connected(host: str, root: str) -> AsyncIterator[Device]:
    """The device at `host` (``[user@]name[:port]`` or an alias of ~/.ssh/config), agent in place.

    Raises `InputError` for an unknown host, host key or login; `LostError` when nobody answers.
    """
    user, _, place = host.rpartition("@")
    name, _, port = place.partition(":")
    options: dict[str, Any] = {"keepalive_interval": SILENT_S, "keepalive_count_max": 3}
    if user:
        options["username"] = user
    if port:
        options["port"] = int(port)
    try:
        connection = await asyncio.wait_for(asyncssh.connect(name, **options), CONNECT_S)
    except asyncssh.HostKeyNotVerifiable as error:
        raise InputError(
            f"{host}: its host key is not in your known_hosts, so it may be another device: check "
            f"the key and log in once with ssh {host} ({error})"
        ) from error
    except asyncssh.PermissionDenied as error:
        raise InputError(f"{host}: login refused: {error}") from error
    except (OSError, asyncssh.Error, TimeoutError, asyncio.TimeoutError) as error:
        raise LostError(f"{host}: no connection: {error or 'nobody answers'}") from error
    async with connection:
        device = Device(host, connection, root)
        await device.bootstrap()
        yield device


async def _lost_or(host: str, work: Any) -> Any:  # noqa: ANN401  (whatever is awaited)
    try:
        return await work
    except (OSError, asyncssh.Error) as error:
        raise LostError(f"{host}: the connection was lost: {error}") from error


def answer_from(host: str, out: bytes, err: bytes) -> dict[str, Any]:
    """The last JSON object an agent printed. Raises `DeviceError` when it tells of an error."""
    lines = out.decode(errors="replace").strip().splitlines()
    if not lines:
        said = err.decode(errors="replace").strip()
        if not said:
            raise LostError(f"{host}: the agent was cut off")
        raise DeviceError(host, "agent", f"the agent failed: {said[-800:]}")
    try:
        answer: dict[str, Any] = json.loads(lines[-1])
    except ValueError:
        raise DeviceError(host, "agent", f"the agent said: {lines[-1][:300]}") from None
    if "error" in answer:
        raise DeviceError(host, str(answer.get("code")), str(answer["error"]))
    return answer
