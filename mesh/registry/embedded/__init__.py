"""The registry that is served in process when there is no etcd."""

from mesh.registry.embedded.service import EmbeddedRegistry

__all__ = ["EmbeddedRegistry"]
