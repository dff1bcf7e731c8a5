"""The flags that say where the registry is."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mesh.config import option
from mesh.registry.options import EtcdOptions


@dataclass(frozen=True)
class EtcdFlags:
    """What all commands that ask the registry share."""

    etcd: str = option("127.0.0.1:12379", "URL(s) of etcd, comma separated; by default this machine's gateway.")
    etcd_ca: Path | None = option(None, "PEM file of the authority that signed etcd's certificate.")
    etcd_cert: Path | None = option(None, "PEM file of the certificate to present to etcd.")
    etcd_key: Path | None = option(None, "PEM file of that certificate's key.")
    etcd_user: str | None = option(None, "User name at etcd.")
    etcd_password: str | None = option(None, "Password at etcd; better given by the environment.", secret=True)

    def etcd_options(self) -> EtcdOptions:
        """Where the registry is; raises MeshError."""
        return EtcdOptions.from_url(
            self.etcd,
            ca=self.etcd_ca,
            cert=self.etcd_cert,
            key=self.etcd_key,
            user=self.etcd_user,
            password=self.etcd_password,
        )
