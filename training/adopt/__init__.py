"""How does a model that is served already become a family? Measured, labelled, fitted and published, without torch."""
