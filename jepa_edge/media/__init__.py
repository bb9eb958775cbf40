"""Sensor data → the model's tensors: decoding, features, clips, recorded datasets. No torch."""
