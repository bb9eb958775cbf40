"""From this machine onto a device, over SSH."""
