"""API keys: what they are, and where they are kept. The command line makes them, gateways ask for them."""

from mesh.keys.key import Key, Usage, digest, id_of, new_key
from mesh.keys.store import EtcdKeys, Listener, Store
from mesh.keys.store_file import FileKeys

__all__ = ["EtcdKeys", "FileKeys", "Key", "Listener", "Store", "Usage", "digest", "id_of", "new_key"]
