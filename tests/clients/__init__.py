"""Other people's clients against a live mesh; `make e2e-clients`."""
