"""Who may sign a release: keys and roles of The Update Framework, kept with python-tuf.

A repository is a folder of metadata. `root` says which keys sign what and can live on a stick in a
drawer; `targets` lists the releases; `snapshot` and `timestamp` date them. A device that has seen a
state never goes back to an older one, and refuses everything once the dates have run out.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any, Literal

import msgspec

from jepa_edge.contract import InputError, MissingExtraError, WrongUseError

try:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_pem_private_key
    from securesystemslib.signer import CryptoSigner
    from tuf.api.metadata import (
        Metadata,
        MetaFile,
        Root,
        Snapshot,
        TargetFile,
        Targets,
        Timestamp,
    )
    from tuf.api.serialization.json import JSONSerializer
except ImportError as error:
    raise MissingExtraError("tuf", "flash") from error

RoleName = Literal["root", "targets", "snapshot", "timestamp"]
ROLES: tuple[RoleName, ...] = ("root", "targets", "snapshot", "timestamp")
DAYS = {"root": 365, "targets": 90, "snapshot": 30, "timestamp": 30}
"""How long each role's signature is good: how long an attacker can keep a device from news."""


class Keys(msgspec.Struct, frozen=True, kw_only=True):
    """Folders of private keys: `root` may be a stick that is only there for a ceremony."""

    online: Path
    root: Path

    def folder(self, role: RoleName) -> Path:
        """Where the keys of `role` are."""
        return self.root if role == "root" else self.online


class Repository:
    """The metadata in `folder`, signed with `keys`."""

    def __init__(self, folder: Path, keys: Keys) -> None:
        self.folder, self.keys = folder / "metadata", keys

    @property
    def exists(self) -> bool:
        """Whether it was created."""
        return (self.folder / "timestamp.json").is_file()

    def create(self, *, root_keys: int = 1, root_threshold: int = 1) -> None:
        """Makes keys and the first metadata. Raises `WrongUseError` if it is there already."""
        if self.exists:
            raise WrongUseError(f"{self.folder} is there already; keys rotate changes its keys")
        if not 1 <= root_threshold <= root_keys:
            raise WrongUseError(f"a root threshold of {root_threshold} of {root_keys} keys")
        root = Root(expires=_expiry("root", self._now()), consistent_snapshot=False)
        for role in ROLES:
            for number in range(root_keys if role == "root" else 1):
                root.add_key(_new_key(self._key_file(role, number)).public_key, role)
        root.roles["root"].threshold = root_threshold
        self.folder.mkdir(parents=True, exist_ok=True)
        self._write_root(Metadata(root), signers=self._signers("root"))
        targets = Metadata(Targets(expires=_expiry("targets", self._now())))
        self._seal(targets, Metadata(Snapshot()), Metadata(Timestamp()))

    def publish(self, name: str, manifest: bytes) -> None:
        """Signs the release with this `manifest` under `name`, and dates everything anew.

        What was signed before stays signed: a device refuses an older release by itself, unless
        it is told to take it.
        """
        targets = Metadata[Targets].from_file(str(self.folder / "targets.json"))
        targets.signed.targets[name] = TargetFile.from_data(name, manifest, ["sha256"])
        self._renew(targets)

    def withdraw(self, name: str) -> None:
        """Takes a release back: no device that has seen this installs it any more."""
        targets = Metadata[Targets].from_file(str(self.folder / "targets.json"))
        if targets.signed.targets.pop(name, None) is None:
            raise WrongUseError(f"no release {name!r}; signed: {', '.join(self.names())}")
        self._renew(targets)

    def refresh(self) -> None:
        """Dates the same releases anew."""
        self._renew(Metadata[Targets].from_file(str(self.folder / "targets.json")))

    def rotate(self, role: RoleName) -> None:
        """Replaces the keys of `role`; devices follow through a root signed by old and new keys."""
        root = Metadata[Root].from_file(str(self._latest_root()))
        old_signers = self._signers("root")
        for keyid in list(root.signed.roles[role].keyids):
            root.signed.revoke_key(keyid, role)
        number = len(list(self.keys.folder(role).glob(f"{role}*.pem")))
        threshold = root.signed.roles[role].threshold
        for count in range(max(1, threshold)):
            key = _new_key(self._key_file(role, number + count))
            root.signed.add_key(key.public_key, role)
        root.signed.version += 1
        root.signed.expires = _expiry("root", self._now())
        new_signers = self._signers("root", root.signed)
        self._write_root(root, signers=[*old_signers, *new_signers])
        self.refresh()

    def names(self) -> list[str]:
        """Every release that is signed."""
        targets = Metadata[Targets].from_file(str(self.folder / "targets.json"))
        return sorted(targets.signed.targets)

    def next_version(self, device: str) -> str:
        """One more than the highest version signed for `device`."""
        named = (name.split("/") for name in self.names())
        versions = [int(v.split(".")[0]) for _, d, v in named if d == device]
        return str(max(versions, default=0) + 1)

    def has(self, manifest: bytes) -> bool:
        """Whether exactly this release is signed."""
        targets = Metadata[Targets].from_file(str(self.folder / "targets.json"))
        file = TargetFile.from_data("any", manifest, ["sha256"])
        return any(t.hashes == file.hashes for t in targets.signed.targets.values())

    def message(self) -> bytes:
        """Everything a device needs to follow, as one JSON text."""
        if not self.exists:
            raise InputError(f"no repository at {self.folder.parent} (jepa-edge keys init)")
        roots = sorted(self.folder.glob("*.root.json"), key=_root_version)
        texts: dict[str, Any] = {role: self._text(f"{role}.json") for role in ROLES[1:]}
        texts["roots"] = [file.read_text() for file in roots]
        return json.dumps(texts).encode()

    def _renew(self, targets: Metadata[Targets]) -> None:
        targets.signed.version += 1
        targets.signed.expires = _expiry("targets", self._now())
        snapshot = Metadata[Snapshot].from_file(str(self.folder / "snapshot.json"))
        timestamp = Metadata[Timestamp].from_file(str(self.folder / "timestamp.json"))
        snapshot.signed.version += 1
        timestamp.signed.version += 1
        self._seal(targets, snapshot, timestamp)

    def _seal(
        self,
        targets: Metadata[Targets],
        snapshot: Metadata[Snapshot],
        timestamp: Metadata[Timestamp],
    ) -> None:
        """Signs the three, each naming the one before by hash, and writes them."""
        data = self._signed("targets", targets)
        snapshot.signed.meta["targets.json"] = _meta(targets.signed.version, data)
        snapshot.signed.expires = _expiry("snapshot", self._now())
        dated = self._signed("snapshot", snapshot)
        timestamp.signed.snapshot_meta = _meta(snapshot.signed.version, dated)
        timestamp.signed.expires = _expiry("timestamp", self._now())
        stamped = self._signed("timestamp", timestamp)
        for role, text in (("targets", data), ("snapshot", dated), ("timestamp", stamped)):
            _replace(self.folder / f"{role}.json", text)

    def _signed(self, role: RoleName, metadata: Metadata[Any]) -> bytes:
        metadata.signatures.clear()
        for signer in self._signers(role):
            metadata.sign(signer, append=True)
        return metadata.to_bytes(JSONSerializer(compact=False))

    def _write_root(self, root: Metadata[Root], signers: Iterable[CryptoSigner]) -> None:
        root.signatures.clear()
        for signer in signers:
            root.sign(signer, append=True)
        name = f"{root.signed.version}.root.json"
        _replace(self.folder / name, root.to_bytes(JSONSerializer(compact=False)))

    def _signers(self, role: RoleName, root: Root | None = None) -> list[CryptoSigner]:
        """The keys of `role` that are here; raises `InputError` when they are too few to sign."""
        trusted = root or self._root_or_none()
        if trusted is None:
            return [_load(file) for file in sorted(self.keys.folder(role).glob(f"{role}*.pem"))]
        duty = trusted.roles[role]
        here = [_load(file) for file in sorted(self.keys.folder(role).glob(f"{role}*.pem"))]
        fitting = [signer for signer in here if signer.public_key.keyid in duty.keyids]
        if len(fitting) < duty.threshold:
            raise InputError(
                f"signing as {role} takes {duty.threshold} key(s); {self.keys.folder(role)} holds "
                f"{len(fitting)} of them"
            )
        return fitting

    def _root_or_none(self) -> Root | None:
        file = self._latest_root()
        return Metadata[Root].from_file(str(file)).signed if file else None

    def _latest_root(self) -> Path | None:
        return max(self.folder.glob("*.root.json"), key=_root_version, default=None)

    def _key_file(self, role: RoleName, number: int) -> Path:
        return self.keys.folder(role) / (f"{role}-{number}.pem" if number else f"{role}.pem")

    def _text(self, name: str) -> str:
        return (self.folder / name).read_text()

    def _now(self) -> datetime:
        return datetime.now(timezone.utc).replace(microsecond=0)


def repository_at(folder: Path | None, keys: Path | None, root_keys: Path | None) -> Repository:
    """The repository in `folder`; what is None is in the user's own folders (XDG)."""
    online = keys or key_folder()
    return Repository(folder or data_folder(), Keys(online=online, root=root_keys or online))


def role_from(name: str) -> RoleName:
    """The role called `name`. Raises `WrongUseError` if there is none."""
    for role in ROLES:
        if role == name:
            return role
    raise WrongUseError(f"unknown role {name!r}; known: {', '.join(ROLES)}")


def data_folder() -> Path:
    """Where jepa-edge keeps releases and the list of hosts (XDG base directories)."""
    base = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(base) / "jepa-edge"


def key_folder() -> Path:
    """Where jepa-edge keeps signing keys."""
    base = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return Path(base) / "jepa-edge" / "keys"


def _root_version(file: Path) -> int:
    return int(file.name.partition(".")[0])


def _meta(version: int, data: bytes) -> MetaFile:
    return MetaFile.from_data(version, data, ["sha256"])


def _expiry(role: RoleName, now: datetime) -> datetime:
    return now + timedelta(days=DAYS[role])


def _passphrase() -> bytes | None:
    text = os.environ.get("JEPA_EDGE_KEY_PASSPHRASE")
    return text.encode() if text else None


def _new_key(file: Path) -> CryptoSigner:
    """An Ed25519 key, written to `file` for its owner alone."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import (
        BestAvailableEncryption,
        Encoding,
        KeySerializationEncryption,
        NoEncryption,
        PrivateFormat,
    )

    key, secret = Ed25519PrivateKey.generate(), _passphrase()
    lock: KeySerializationEncryption = BestAvailableEncryption(secret) if secret else NoEncryption()
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "wb") as out:
        out.write(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, lock))
    return CryptoSigner(key)


def _load(file: Path) -> CryptoSigner:
    try:
        return CryptoSigner(load_pem_private_key(file.read_bytes(), _passphrase()))
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise InputError(
            f"key {file} cannot be read (JEPA_EDGE_KEY_PASSPHRASE opens a locked one): {error}"
        ) from error


def _replace(file: Path, data: bytes) -> None:
    part = file.with_name(f".{file.name}.part")
    part.write_bytes(data)
    part.replace(file)
