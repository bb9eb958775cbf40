"""V-JEPA 2, 2.1 and 2-AC as published: imported, exact, and shaped for the engines."""
