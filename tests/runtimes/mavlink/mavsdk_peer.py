"""An autopilot's side made of MAVSDK's server plugins, which are not ours: `mavsdk_peer.py PORT`.

It offers safe PX4 parameters, is armed and in OFFBOARD, and prints each message that it decodes as
one JSON line. A line on standard input takes the vehicle out of OFFBOARD.
"""

import json
import sys
import time

from mavsdk.mavsdk import Configuration, Mavsdk
from mavsdk.plugins.action_server.action_server import ActionServer, FlightMode
from mavsdk.plugins.mavlink_direct_server.mavlink_direct_server import MavlinkDirectServer
from mavsdk.plugins.param_server.param_server import ParamServer

WATCHED = ("SET_POSITION_TARGET_LOCAL_NED", "SET_ATTITUDE_TARGET", "HEARTBEAT", "STATUSTEXT")


def show(message, _data):
    line = {
        "at_ns": time.monotonic_ns(),
        "from": [message.system_id, message.component_id],
        "to": [message.target_system_id, message.target_component_id],
    }
    print(json.dumps(line | json.loads(message.fields_json)), flush=True)  # noqa: T201


def main():
    peer = Mavsdk(Configuration.create_manual(1, 1, True))
    peer.add_any_connection(f"udpout://127.0.0.1:{sys.argv[1]}")
    component = peer.server_component_by_id(1)
    parameters = ParamServer(component)
    parameters.provide_param_float("COM_OF_LOSS_T", 1.0)
    parameters.provide_param_int("COM_OBL_RC_ACT", 5)
    action = ActionServer(component)
    action.set_armable(True, True)
    action.set_armed_state(True)
    action.set_flight_mode(FlightMode.OFFBOARD)
    direct = MavlinkDirectServer(component)
    for name in WATCHED:
        direct.subscribe_message(name, show)
    sys.stdin.readline()
    action.set_flight_mode(FlightMode.POSCTL)
    sys.stdin.readline()
    peer.destroy()


if __name__ == "__main__":
    main()
