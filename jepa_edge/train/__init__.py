"""Training: recorded clips in, a checkpoint that predicts the future out."""
