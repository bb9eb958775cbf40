"""Signed links: what is forged, replayed or unsigned is not heard, at either end."""

import hashlib
import struct
import time

import pytest
from pymavlink.dialects.v20 import common as mavlink

from jepa_edge.contract import InputError, WrongUseError
from jepa_edge.runtimes.mavlink.link import Link, Udp, secret_key
from jepa_edge.runtimes.mavlink.messages import heartbeat_message
from tests.runtimes.mavlink.conftest import free_port, until

KEY = bytes(range(32))
SETPOINT = mavlink.MAVLINK_MSG_ID_SET_POSITION_TARGET_LOCAL_NED


@pytest.fixture
def key(tmp_path):
    path = tmp_path / "link.key"
    path.write_bytes(KEY)
    path.chmod(0o600)
    return path


class Ground:
    """The other end: packs messages, signed or not, and keeps the packets."""

    def __init__(self, key=KEY, ahead=0):
        self.codec = mavlink.MAVLink(None, srcSystem=1, srcComponent=1)
        self.codec.robust_parsing = True
        if key:
            signing = self.codec.signing
            signing.secret_key, signing.sign_outgoing = key, True
            signing.timestamp = round((time.time() - 1_420_070_400) * 100_000) + ahead

    def packet(self):
        return bytes(heartbeat_message("go").pack(self.codec))


class Tape:
    """A wire that gives the packets laid on it."""

    def __init__(self):
        self.packets, self.sent = [], []

    def read(self):
        return [self.packets.pop(0)] if self.packets else []

    def write(self, data):
        self.sent.append(bytes(data))

    def close(self):
        pass


@pytest.fixture
def link(key):
    link = Link(f"udpin:127.0.0.1:{free_port()}", 1, 191, str(key))
    link.wire.close()
    link.wire = Tape()
    return link


def heard(link, *packets):
    link.wire.packets = list(packets)
    return sum(len(link.received()) for _ in packets)


def test_a_signed_message_is_heard_once(link):
    packet = Ground().packet()
    assert heard(link, packet) == 1
    assert heard(link, packet) == 0  # replayed
    assert link.refused == 1


def test_an_older_one_than_the_last_is_a_replay(link):
    ground = Ground()
    packets = [ground.packet() for _ in range(3)]
    assert heard(link, packets[2], packets[0], packets[1]) == 1


def test_unsigned_and_wrongly_signed_messages_are_not_heard(link):
    assert heard(link, Ground(key=None).packet()) == 0
    assert heard(link, Ground(key=b"x" * 32).packet()) == 0
    changed = bytearray(Ground().packet())
    changed[-1] ^= 1
    assert heard(link, bytes(changed)) == 0
    assert heard(link, Ground().packet()) == 1


def test_a_forgery_from_the_future_does_not_make_it_deaf(link):
    ground = Ground()
    assert heard(link, ground.packet()) == 1
    assert heard(link, Ground(key=b"x" * 32, ahead=10**9).packet()) == 0
    assert heard(link, ground.packet()) == 1


def test_a_message_from_long_before_the_start_is_not_heard(link):
    assert heard(link, Ground(ahead=-100_000 * 120).packet()) == 0  # two minutes


def test_what_is_sent_is_signed_with_a_rising_time_that_survives_a_restart(link, key):
    for _ in range(3):
        link.send(heartbeat_message("go"))
    stamps = []
    for packet in link.wire.sent:
        signed, signature = packet[:-6], packet[-6:]
        assert hashlib.sha256(KEY + signed).digest()[:6] == signature  # the MAVLink 2 rule
        stamps.append(struct.unpack("<Q", packet[-12:-6] + b"\0\0")[0])
    assert stamps == sorted(set(stamps))
    link.codec.signing.timestamp += 10**12  # a clock far ahead, which the next start has lost
    link.save_stamp()
    again = Link(f"udpin:127.0.0.1:{free_port()}", 1, 191, str(key))
    again.wire.close()
    assert again.codec.signing.timestamp > stamps[-1] + 10**12


def test_the_signing_time_goes_with_the_clock_not_with_the_packets(link, monkeypatch):
    link.send(heartbeat_message("go"))
    now_s = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now_s + 300.0)
    link.send(heartbeat_message("go"))
    stamps = [struct.unpack("<Q", p[-12:-6] + b"\0\0")[0] for p in link.wire.sent]
    assert stamps[1] - stamps[0] >= 299 * 100_000


@pytest.mark.parametrize(
    ("content", "mode", "named"),
    [
        (b"short", 0o600, "64 hexadecimal digits"),
        (b"z" * 64, 0o600, "64 hexadecimal digits"),
        (KEY, 0o644, "readable by others"),
        (None, 0, "No such file"),
    ],
)
def test_a_key_that_is_none_is_refused(tmp_path, content, mode, named):
    path = tmp_path / "key"
    if content is not None:
        path.write_bytes(content)
        path.chmod(mode)
    with pytest.raises(InputError, match=named):
        secret_key(path)


def test_a_key_may_be_written_in_hexadecimal(tmp_path):
    path = tmp_path / "key"
    path.write_text(KEY.hex() + "\n")
    path.chmod(0o600)
    assert secret_key(path) == KEY


@pytest.mark.parametrize("address", ["udp", "udp:host", "udpin:127.0.0.1:x", "pigeon:a:1"])
def test_an_address_that_is_none_is_refused(address):
    with pytest.raises(WrongUseError, match="known: udp"):
        Link(address, 1, 191, None)


def test_a_listening_wire_hears_only_whom_it_trusts():
    port = free_port()
    wire = Udp("127.0.0.1", port, listens=True)
    friend = Udp("127.0.0.1", port, listens=False)
    stranger = Udp("127.0.0.1", port, listens=False)
    friend.write(b"1")
    assert until(wire.read) == [b"1"]
    wire.trust()
    stranger.write(b"2")
    time.sleep(0.05)
    assert wire.read() == []
    friend.write(b"3")
    assert until(wire.read) == [b"3"]
    wire.write(b"4")
    assert until(friend.read) == [b"4"]
    assert stranger.read() == []
    for one in (wire, friend, stranger):
        one.close()


@pytest.mark.slow
def test_only_signed_commands_are_obeyed_and_only_new_ones(steer, key, tmp_path):
    """In flight: an unsigned and a replayed pause do nothing; a signed one brakes at once."""
    run = steer("ardupilot", key=KEY, more=f'signing_key = "{key}"')
    run.fly()
    pilot = run.autopilot
    pause = pause_command(run)
    forged = bytes(pause.pack(mavlink.MAVLink(None, srcSystem=1, srcComponent=1)))
    pilot._socket.sendto(forged, pilot.address)
    since_ns = time.monotonic_ns()
    time.sleep(0.6)
    assert not run.still(since_ns)
    packet = pilot.send(pause)
    since_ns = time.monotonic_ns()
    assert run.hold_ms(since_ns) < 200
    pilot.send(pause_command(run, 1))
    until(lambda: run.moving(time.monotonic_ns() - 100_000_000))
    pilot._socket.sendto(packet, pilot.address)  # the pause again, word for word
    since_ns = time.monotonic_ns()
    time.sleep(0.6)
    assert not run.still(since_ns)
    # and the vehicle's end: ours replayed, or unsigned, is no setpoint
    setpoints = [
        p for p in pilot.packets if p[7] == mavlink.MAVLINK_MSG_ID_SET_POSITION_TARGET_LOCAL_NED
    ]
    before = pilot.refused
    pilot.hear(setpoints[-1])
    assert pilot.refused == before + 1
    assert key.with_name("link.key.timestamp").stat().st_size > 0


def pause_command(run, param1=0):
    kind = mavlink.MAV_CMD_DO_PAUSE_CONTINUE
    return mavlink.MAVLink_command_long_message(1, 191, kind, 0, param1, 0, 0, 0, 0, 0, 0)
