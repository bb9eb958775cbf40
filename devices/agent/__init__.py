"""The agent on the device: standard library only, Python 3.8 or newer, sent as one zip file."""
