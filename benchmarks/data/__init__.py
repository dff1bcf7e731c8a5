"""The data tools on a file larger than what they may hold: memory and throughput."""
