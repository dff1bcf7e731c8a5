"""The worker: serves one engine over gRPC and announces it in the registry."""

from mesh.log import silence_grpc

silence_grpc()  # here, since what a worker's `main` needs at once imports gRPC
