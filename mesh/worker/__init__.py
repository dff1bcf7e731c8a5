"""The worker: serves one engine over gRPC and announces it in the registry."""
