"""Handing ticks to other processes: newest wins, never half a message, never a wait."""

import mmap
import os
import signal
import socket
import subprocess
import sys
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jepa_edge.contract import InputError, WrongUseError
from jepa_edge.runtimes.handover import HEAD, Beat, Slot, anonymous_memory
from jepa_edge.runtimes.loop import Tick
from jepa_edge.runtimes.shared import SharedReader, SocketTicks
from jepa_edge.runtimes.sinks import SinkConfig, open_sink


def tick(step=0, **fields):
    return Tick(step=step, captured_ns=time.monotonic_ns(), state="ok", **fields)


@pytest.fixture
def slot():
    fd, memory = anonymous_memory(Slot.room(64))
    yield Slot(memory, 0, 64)
    memory.close()
    os.close(fd)


def test_the_newest_message_is_read_again_and_again(slot):
    assert slot.read() is None
    for number in (1, 2, 3):
        assert slot.write(b"m%d" % number) == number
    before = time.monotonic_ns()
    message = slot.read()
    assert (message.sequence, message.payload) == (3, b"m3")
    assert message.written_ns <= before
    assert slot.read() == message
    assert Slot(slot.memory, 0, 64).write(b"on") == 4  # a second writer goes on counting
    with pytest.raises(WrongUseError, match="room for 64"):
        slot.write(b"x" * 65)


@given(st.integers(0, HEAD.size + 5), st.integers(1, 255))
@settings(deadline=None)
def test_any_changed_byte_makes_it_no_message(place, change):
    fd, memory = anonymous_memory(Slot.room(64))
    slot = Slot(memory, 0, 64)
    slot.write(b"whole!")
    memory[place] ^= change
    assert slot.read() is None
    memory.close()
    os.close(fd)


def test_a_reader_never_sees_half_a_message_of_a_writer_that_is_stopped_and_killed(tmp_path):
    path = tmp_path / "memory"
    path.write_bytes(bytes(Slot.room(40_000)))
    program = (
        "import mmap, sys\n"
        "from jepa_edge.runtimes.handover import Slot\n"
        "opened = open(sys.argv[1], 'r+b')\n"
        "slot = Slot(mmap.mmap(opened.fileno(), 0), 0, 40_000)\n"
        "n = 0\n"
        "while True: n = (n + 1) % 256; slot.write(bytes([n]) * 40_000)\n"
    )
    with path.open("r+b") as opened:
        memory = mmap.mmap(opened.fileno(), 0)
    slot, seen = Slot(memory, 0, 40_000), set()
    writer = subprocess.Popen([sys.executable, "-c", program, str(path)])
    ends = time.monotonic() + 20
    while len(seen) < 10 and time.monotonic() < ends:
        os.kill(writer.pid, signal.SIGSTOP)  # anywhere: often in the middle of a message
        os.waitid(os.P_PID, writer.pid, os.WSTOPPED)
        message = slot.read()
        if message:
            assert set(message.payload) == {message.sequence % 256}
            seen.add(message.sequence)
        os.kill(writer.pid, signal.SIGCONT)
        time.sleep(0.002)
    assert len(seen) >= 10
    writer.kill()
    writer.wait()
    memory.close()


def test_a_beat_goes_on_until_it_is_stopped():
    fd, memory = anonymous_memory(64)
    beat = Beat(memory, 0)
    assert beat.last_ns() == 0
    beat.keep(0.005)
    ends = time.monotonic() + 5
    while beat.last_ns() == 0 and time.monotonic() < ends:
        time.sleep(0.001)
    first = beat.last_ns()
    while beat.last_ns() == first and time.monotonic() < ends:
        time.sleep(0.001)
    assert first < beat.last_ns() <= time.monotonic_ns()
    beat.stop()
    time.sleep(0.05)
    last = beat.last_ns()
    time.sleep(0.05)
    assert beat.last_ns() == last
    memory.close()
    os.close(fd)


def test_shared_memory_gives_the_newest_tick_to_another_process():
    name = f"jepa-test-{os.getpid()}"
    with pytest.raises(InputError, match="no run writes there"):
        SharedReader(name)
    with open_sink(SinkConfig(uri=f"shm:{name}")) as sink:
        reader = SharedReader(name)
        assert reader.newest() is None
        for step in range(3):
            assert sink.take(tick(step, action=[0.5, -0.5], latent=[1.0] * 500))
        message, newest = reader.newest()
        assert message.sequence == 3
        assert newest.step == 2
        assert newest.action == [0.5, -0.5]
        program = (
            "from jepa_edge.runtimes.shared import SharedReader\n"
            f"print(SharedReader({name!r}).newest()[1].step)"
        )
        other = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
        assert other.stdout.strip() == b"2"
        with (
            pytest.raises(WrongUseError, match="is there"),
            open_sink(SinkConfig(uri=f"shm:{name}")),
        ):
            pass
        reader.close()
    with pytest.raises(InputError):
        SharedReader(name)


def test_a_socket_gives_each_client_whole_ticks_and_waits_for_none(tmp_path):
    path = tmp_path / "ticks"
    with open_sink(SinkConfig(uri=f"unix:{path}")) as sink:
        assert path.stat().st_mode & 0o077 == 0
        sink.take(tick(0))  # nobody is there yet
        quick, slow = (socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) for _ in range(2))
        for client in (quick, slow):
            client.connect(str(path))
        took = []
        for step in range(1, 200):
            began = time.monotonic()
            sink.take(tick(step, latent=[1.0] * 300))
            took.append(time.monotonic() - began)
            assert b'"step":%d,' % step in quick.recv(100_000)
        assert max(took) < 0.5  # the slow one never read
        quick.close()
        assert sink.take(tick(200))
        assert len(sink.clients) == 1
        slow.close()
        with pytest.raises(WrongUseError, match="cannot listen"):
            SocketTicks(path)  # somebody does already
    assert not path.exists()


def test_a_socket_left_by_a_killed_run_is_taken_over(tmp_path):
    path = tmp_path / "ticks"
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as dead:
        dead.bind(str(path))
    sink = SocketTicks(path)
    sink.close()


@pytest.mark.parametrize("uri", ["shm:", "shm:../x", "shm:.x", "unix:/no/such/folder/x"])
def test_a_place_that_is_none_is_refused(uri):
    with pytest.raises(WrongUseError), open_sink(SinkConfig(uri=uri)):
        pass


def test_arming_what_does_not_move_is_refused():
    armed = SinkConfig(uri="stdout", armed=True, action_dim=3)
    with pytest.raises(WrongUseError, match="--arm"), open_sink(armed):
        pass
