"""A graph → a smaller graph, calibrated on real clips."""
