"""The offline job: one reasoning model in, a family of efficient checkpoints out."""
