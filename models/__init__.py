"""The contract between the training job and the gateway: a family's manifest and its difficulty profile."""
