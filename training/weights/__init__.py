"""`mesh weights`: merge adapters, make and apply deltas, convert, shard and publish the weights of a model."""
