"""A checkpoint → graphs → a bundle, checked against the source model."""
