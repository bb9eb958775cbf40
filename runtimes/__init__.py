"""What runs on the robot: engines, sources, the loop and its sinks. Never torch or onnx."""
