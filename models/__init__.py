"""The contract between the training job and the gateway: what a family is, and what it predicts of a prompt."""
