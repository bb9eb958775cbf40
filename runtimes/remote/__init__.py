"""The robot's side of the cloud path: calls over the Open Inference Protocol."""
