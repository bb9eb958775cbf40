"""Measures bundles: speed, agreement with fp32, and what their latents know; without torch."""
