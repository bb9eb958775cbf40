"""ROS 2 topics: bytes against rosbags and the published examples, a round trip through zenoh.

No ROS node was at hand: that a live one takes them is not tested here.
"""

import struct
import threading
import time

import numpy as np
import pytest

from jepa_edge.contract import InputError, WrongUseError
from jepa_edge.runtimes.loop import Tick
from jepa_edge.runtimes.ros import (
    LATENTS,
    NODE,
    QOS,
    STATUS,
    RosTypes,
    attachment,
    node_token,
    publisher_token,
    topic_key,
)
from jepa_edge.runtimes.sinks import SinkConfig, open_sink

zenoh = pytest.importorskip("zenoh", reason="eclipse-zenoh is not installed")
pytest.importorskip("rosbags", reason="rosbags is not installed")

STRING = (
    "std_msgs::msg::dds_::String_/"
    "RIHS01_df668c740482bbd48fb39d76a70dfd4bd59db1288021743503259e948f6b1a18"
)


@pytest.fixture(scope="module")
def types():
    return RosTypes()


def test_names_on_the_wire_are_those_of_rmw_zenohs_design_document(types):
    assert types.wire_type("std_msgs/msg/String") == STRING
    assert topic_key(0, "/robot1/chatter", STRING) == f"0/robot1/chatter/{STRING}"
    assert node_token(0, "aac3178e") == f"@ros2_lv/0/aac3178e/0/0/NN/%/%/{NODE}"
    expected = f"@ros2_lv/2/aac3/0/10/MP/%/%/{NODE}/%robot1%chatter/{STRING}/{QOS}"
    assert publisher_token(2, "aac3", 10, "/robot1/chatter", STRING) == expected


def test_an_attachment_is_the_33_bytes_that_rmw_zenoh_reads():
    gid = bytes(range(16))
    assert attachment(7, 9, gid) == struct.pack("<qq", 7, 9) + b"\x10" + gid


def cdr(*parts):
    """CDR, little endian, each part aligned to its own size."""
    out = b""
    for form, value in parts:
        size = struct.calcsize(form)
        out += bytes(-len(out) % size) + struct.pack("<" + form, value)
    return b"\0\x01\0\0" + out


def text(word):
    coded = word.encode() + b"\0"
    return [("I", len(coded))] + [("B", byte) for byte in coded]


def test_an_array_is_the_bytes_that_the_cdr_rules_give(types):
    by_hand = cdr(
        *[("I", 1), *text("latent"), ("I", 3), ("I", 3), ("I", 0), ("I", 3)],
        *[("f", 1.5), ("f", -2.0), ("f", 0.25)],
    )
    assert types.array([1.5, -2.0, 0.25]) == by_hand


def test_a_prediction_keeps_its_two_dimensions(types):
    values = np.arange(6, dtype=np.float32).reshape(2, 3)
    back = types.store.deserialize_cdr(types.array(values.tolist()), LATENTS)
    shape = [(d.label, d.size, d.stride) for d in back.layout.dim]
    assert shape == [("step", 2, 6), ("latent", 3, 3)]
    assert np.array_equal(back.data, values.ravel())


@pytest.mark.parametrize(("state", "level"), [("ok", 0), ("warming", 1), ("hold", 2)])
def test_a_status_tells_state_and_reason(types, state, level):
    tick = Tick(step=4, captured_ns=5, state=state, reason="why" if state == "hold" else "")
    back = types.store.deserialize_cdr(types.status(tick), STATUS)
    assert back.level == level
    assert back.message == ("why" if state == "hold" else state)
    values = {pair.key: pair.value for pair in back.values}
    assert values["step"] == "4"
    assert "surprise" not in values  # not known is not sent


@pytest.fixture
def router():
    """A zenoh session that listens, and the address for `connect`."""
    config = zenoh.Config()
    config.insert_json5("listen/endpoints", '["tcp/127.0.0.1:17447"]')
    config.insert_json5("scouting/multicast/enabled", "false")
    config.insert_json5("mode", '"router"')
    session = zenoh.open(config)
    yield session, "tcp/127.0.0.1:17447"
    session.close()


def seen_by(session):
    """The tokens of the graph, once all five are there: they travel on their own."""
    ends = time.monotonic() + 10
    tokens = set()
    while len(tokens) < 5 and time.monotonic() < ends:
        tokens = {str(r.ok.key_expr) for r in session.liveliness().get("@ros2_lv/7/**")}
    return tokens


def test_ticks_travel_through_zenoh_and_the_node_is_seen(router, types):
    session, address = router
    got, enough = [], threading.Event()

    def take(sample):
        got.append(sample)
        if len(got) == 5:
            enough.set()

    with session.declare_subscriber("7/robot/**", take):
        uri = f"ros2:robot?domain=7&connect={address}"
        with open_sink(SinkConfig(uri=uri)) as sink:
            tokens = seen_by(session)
            assert sum("/NN/" in token for token in tokens) == 1
            assert sum("/MP/" in token for token in tokens) == 4
            sink.take(
                Tick(
                    step=1,
                    captured_ns=1,
                    state="ok",
                    latent=[0.5, 1.5],
                    prediction=[[1.0, 2.0]],
                    action=[0.1],
                )
            )
            sink.take(Tick(step=2, captured_ns=2, state="hold", reason="camera gives no frame"))
            assert enough.wait(10)
    topics = [str(sample.key_expr).split("/")[2] for sample in got]
    assert topics == ["latent", "prediction", "action", "status", "status"]
    latent = types.store.deserialize_cdr(got[0].payload.to_bytes(), LATENTS)
    assert latent.data.tolist() == [0.5, 1.5]
    held = types.store.deserialize_cdr(got[4].payload.to_bytes(), STATUS)
    assert held.message == "camera gives no frame"
    beside = got[3].attachment.to_bytes()
    assert len(beside) == 33
    assert got[4].attachment.to_bytes()[17:] == beside[17:]  # one publisher, one GID
    sequences = [struct.unpack("<q", s.attachment.to_bytes()[:8])[0] for s in got[3:]]
    assert sequences == [1, 2]


@pytest.mark.parametrize("uri", ["ros2:x?domain=a", "ros2:x?speed=1"])
def test_wrong_options_are_refused(uri):
    with pytest.raises(WrongUseError, match="ros2"), open_sink(SinkConfig(uri=uri)):
        pass


def test_a_router_that_is_not_there_is_told():
    uri = "ros2:x?connect=tcp/127.0.0.1:1"
    with pytest.raises(InputError, match="cannot connect"), open_sink(SinkConfig(uri=uri)):
        pass
