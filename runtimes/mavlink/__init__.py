"""Steering a PX4 or ArduPilot vehicle: one process sends, checks and falls silent on its own."""
