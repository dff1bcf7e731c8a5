"""Which tokens of which rows a step computes, and what its logits bring."""
