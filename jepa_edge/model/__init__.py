"""The JEPA model: one implementation that trains and exports."""
