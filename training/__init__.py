"""The training job: turns one reasoning model into a family of checkpoints, and measures and publishes the family."""
