"""Export, quantize and run JEPA world models on edge devices."""

__version__ = "0.1.0"
