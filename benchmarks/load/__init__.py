"""What the wire costs: CPU per streamed token of gateway and worker, under a load from a process of its own."""
