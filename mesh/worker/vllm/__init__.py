"""vLLM's gRPC service, in both directions: a worker that speaks it besides the mesh's own, and a worker whose model a
server that speaks it runs. This is the only room that knows its messages."""
