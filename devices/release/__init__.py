"""Release packages: everything a device needs to run a bundle, in one reproducible, signed file."""
