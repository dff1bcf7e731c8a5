"""The gateway: OpenAI's REST API on one side, load-balanced gRPC sessions to workers on the other."""
