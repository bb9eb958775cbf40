"""The network laboratory: links with a profile and a seed, simulated, proxied or in the kernel."""
