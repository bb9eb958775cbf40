"""The cloud's side: a bundle behind the Open Inference Protocol v2, for many robots at once."""
