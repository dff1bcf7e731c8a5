"""Where a request runs: the workers, the choice among them, and one request over as many of them as it takes."""
