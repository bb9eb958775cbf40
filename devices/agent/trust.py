"""What the device believes: a client of The Update Framework, specification 1.0, section 5.

The four roles arrive over SSH in one message and are accepted together or not at all, so that a
device never holds metadata of two repositories' states. Refused: signatures below the threshold,
expired metadata (freeze), lower versions (rollback), roles of different states (mix and match).
"""

from __future__ import annotations

import hashlib
import json
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Dict

from jepa_edge.devices.agent.durable import AgentError, read_json, write_json
from jepa_edge.devices.agent.ed25519 import verify

Json = Dict[str, Any]
LARGEST = 4_000_000
"""Bytes of one metadata file: larger ones are an attack on the device's memory."""


class Trust:
    """The metadata a device has accepted, in one file, so that it changes in one step."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "trusted.json"
        self.now: Json = read_json(self.file) or {}

    @property
    def is_enrolled(self) -> bool:
        """Whether a root of trust is pinned."""
        return "root" in self.now

    def update(self, sent: Json, when: datetime, enroll: bool = False) -> Json:
        """Accepts `sent` (`roots`, `timestamp`, `snapshot`, `targets` as text); the new targets.

        Raises `AgentError` with code ``untrusted``, and then changes nothing.
        """
        texts: list[str] = list(sent["roots"])
        if not self.is_enrolled and not enroll:
            raise AgentError("untrusted", "this device trusts nobody yet; enroll it first")
        root = self._root(texts, when)
        known = dict(self.now)
        if "root" in known and _roles_moved(known["root"], root):
            known.pop("timestamp", None)  # TUF 5.3.11: recovery from a fast-forward attack
            known.pop("snapshot", None)
        timestamp = _signed(sent["timestamp"], "timestamp", root)
        self._check_timestamp(timestamp, known.get("timestamp"), when)
        snapshot = _signed(sent["snapshot"], "snapshot", root)
        _check_named(sent["snapshot"], snapshot, timestamp["meta"]["snapshot.json"], "snapshot")
        _check_snapshot(snapshot, known.get("snapshot"), when)
        targets = _signed(sent["targets"], "targets", root)
        _check_named(sent["targets"], targets, snapshot["meta"]["targets.json"], "targets")
        _check_expiry(targets, when)
        self.now = {
            "root": root,
            "timestamp": timestamp,
            "snapshot": snapshot,
            "targets": targets,
        }
        self.file.parent.mkdir(parents=True, exist_ok=True)
        write_json(self.file, self.now)
        return targets

    def name_of(self, manifest: bytes, when: datetime) -> str:
        """The target path under which `manifest` is signed.

        Raises `AgentError` where it is not, or where the trusted metadata has expired since.
        """
        if not self.is_enrolled:
            raise AgentError("untrusted", "this device trusts nobody yet; enroll it first")
        for role in ("root", "timestamp", "snapshot", "targets"):
            _check_expiry(self.now[role], when)
        digest = hashlib.sha256(manifest).hexdigest()
        for name, target in self.now["targets"]["targets"].items():
            if target["hashes"].get("sha256") == digest and target["length"] == len(manifest):
                return str(name)
        raise AgentError(
            "untrusted", "release {} is not among the signed targets".format(digest[:16])
        )

    def _root(self, texts: list[str], when: datetime) -> Json:
        trusted: Json | None = self.now.get("root")
        for text in texts:
            offered = _parsed(text, "root")["signed"]
            if trusted is not None and offered["version"] <= trusted["version"]:
                continue
            if trusted is not None:
                if offered["version"] != trusted["version"] + 1:
                    raise _refused(
                        "root version {} does not follow {}".format(
                            offered["version"], trusted["version"]
                        )
                    )
                _signed(text, "root", trusted)
            trusted = _signed(text, "root", offered)
        if trusted is None:
            raise _refused("no root metadata was sent")
        _check_expiry(trusted, when)
        return trusted

    def _check_timestamp(self, new: Json, old: Json | None, when: datetime) -> None:
        if old is not None:
            _check_not_lower("timestamp", new["version"], old["version"])
            _check_not_lower(
                "snapshot",
                new["meta"]["snapshot.json"]["version"],
                old["meta"]["snapshot.json"]["version"],
            )
        _check_expiry(new, when)


def _check_snapshot(new: Json, old: Json | None, when: datetime) -> None:
    for name, meta in (old or {"meta": {}})["meta"].items():
        if name not in new["meta"]:
            raise _refused("snapshot no longer names {}".format(name))
        _check_not_lower(name, new["meta"][name]["version"], meta["version"])
    _check_expiry(new, when)


def canonical(value: Any) -> bytes:  # noqa: ANN401  (JSON of any shape)
    """`value` in OLPC canonical JSON, the bytes that TUF signs. Floats are refused."""
    return _canonical(value).encode()


def _canonical(value: Any) -> str:  # noqa: ANN401
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, int):
        return str(value)
    if isinstance(value, list):
        return "[" + ",".join(map(_canonical, value)) + "]"
    if isinstance(value, dict):
        pairs = (_canonical(key) + ":" + _canonical(value[key]) for key in sorted(value))
        return "{" + ",".join(pairs) + "}"
    raise _refused("metadata holds a {}, which cannot be signed".format(type(value).__name__))


def _parsed(text: str, role: str) -> Json:
    if len(text) > LARGEST:
        raise _refused("{} metadata is larger than {} bytes".format(role, LARGEST))
    try:
        whole = json.loads(text)
        if whole["signed"]["_type"] != role:
            raise _refused("expected {} metadata, got {}".format(role, whole["signed"]["_type"]))
        if not isinstance(whole["signed"]["version"], int):
            raise _refused("{} metadata has no version number".format(role))
    except (ValueError, KeyError, TypeError) as error:
        raise _refused("{} metadata cannot be read: {}".format(role, error)) from error
    return dict(whole)


def _signed(text: str, role: str, root: Json) -> Json:
    """The signed part of `text`, once enough keys of `role` in `root` have signed it."""
    whole = _parsed(text, role)
    message = canonical(whole["signed"])
    keys, duty = root["keys"], root["roles"][role]
    good = set()
    for signature in whole["signatures"]:
        if signature["keyid"] not in duty["keyids"]:
            continue
        key = keys[signature["keyid"]]
        if key["scheme"] != "ed25519":
            raise _refused("{} is signed with {}; use ed25519".format(role, key["scheme"]))
        public = bytes.fromhex(key["keyval"]["public"])
        if verify(public, message, bytes.fromhex(signature["sig"])):
            good.add(public)
    if len(good) < max(1, duty["threshold"]):
        raise _refused(
            "{} metadata has {} good signature(s), {} needed".format(
                role, len(good), duty["threshold"]
            )
        )
    return dict(whole["signed"])


def _check_named(text: str, new: Json, meta: Json, role: str) -> None:
    if new["version"] != meta["version"]:
        raise _refused(
            "{} version {} is not the {} that was signed for".format(
                role, new["version"], meta["version"]
            )
        )
    data = text.encode()
    if "length" in meta and len(data) != meta["length"]:
        raise _refused("{} metadata is not as long as signed".format(role))
    if "hashes" in meta and hashlib.sha256(data).hexdigest() != meta["hashes"].get("sha256"):
        raise _refused("{} metadata is not the file that was signed".format(role))


def _check_not_lower(what: str, new: int, old: int) -> None:
    if new < old:
        raise _refused("{} version {} is older than {}, already seen".format(what, new, old))


def _check_expiry(part: Json, when: datetime) -> None:
    expires = datetime.strptime(part["expires"], "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=timezone.utc)
    if when >= expires:
        raise AgentError(
            "expired",
            "{} metadata expired {} and this device's clock says {:%Y-%m-%dT%H:%M:%SZ}: publish "
            "again (jepa-edge release publish), or set the clock".format(
                part["_type"], part["expires"], when
            ),
        )


def _roles_moved(old: Json, new: Json) -> bool:
    return any(
        old["roles"][r]["keyids"] != new["roles"][r]["keyids"] for r in ("timestamp", "snapshot")
    )


def _refused(why: str) -> AgentError:
    return AgentError("untrusted", why)
