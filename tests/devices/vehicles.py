"""Autopilots for the tests, by pymavlink."""

import socket
import threading


class Vehicle:
    """One that says ten times a second whether it is armed."""

    def __init__(self, port, *, armed):
        from pymavlink.dialects.v20 import common

        self.to, self.over = ("127.0.0.1", port), threading.Event()
        self.codec = common.MAVLink(None, srcSystem=1, srcComponent=1)
        self.beat = common.MAVLink_heartbeat_message(2, 12, 128 if armed else 0, 0, 4, 3)
        self.power = common.MAVLink_sys_status_message(0, 0, 0, 0, 0, 0, 80, 0, 0, 0, 0, 0, 0)

    def __enter__(self):
        self.thread = threading.Thread(target=self.speak)
        self.thread.start()

    def __exit__(self, *_):
        self.over.set()
        self.thread.join()

    def speak(self):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as out:
            while not self.over.wait(0.1):
                for message in (self.beat, self.power):
                    out.sendto(message.pack(self.codec), self.to)


class Autopilot:
    """One that answers whoever speaks to it, and counts what it hears."""

    def __init__(self, *, battery_pct=80):
        self.battery_pct = battery_pct
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(("127.0.0.1", 0))
        self.socket.settimeout(0.2)
        self.port, self.over, self.heard = self.socket.getsockname()[1], threading.Event(), {}
        self.thread = threading.Thread(target=self.speak)
        self.thread.start()

    def speak(self):
        from pymavlink.dialects.v20 import common

        codec = common.MAVLink(None, srcSystem=1, srcComponent=1)
        codec.robust_parsing = True
        left = (0, 0, 0, 0, 0, 0, self.battery_pct, 0, 0, 0, 0, 0, 0)
        beat = common.MAVLink_heartbeat_message(2, 12, 0, 0, 4, 3)
        power = common.MAVLink_sys_status_message(*left)
        while not self.over.is_set():
            try:
                data, peer = self.socket.recvfrom(2048)
            except TimeoutError:
                continue
            for message in codec.parse_buffer(data) or ():
                who = (message.get_type(), message.get_srcComponent())
                self.heard[who] = self.heard.get(who, 0) + 1
            for message in (beat, power):
                self.socket.sendto(message.pack(codec), peer)

    def close(self):
        self.over.set()
        self.thread.join()
        self.socket.close()
