"""A private certificate authority, so that every check of a certificate can stay switched on."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import trustme

from bridge.demo.servers.process import make_folder


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate:
    """Files in PEM: the chain that a server shows, and its key."""

    chain: Path
    key: Path


class CertificateAuthority:
    """Issues server certificates; `certificate_file` is what others have to trust."""

    def __init__(self, folder: Path | None = None) -> None:
        self._keeps_folder = folder is not None
        self.folder = folder if folder is not None else make_folder("ca")
        self._authority = trustme.CA(organization_name="Isthmus private test authority")
        self.certificate_file = self.folder / "ca.crt"
        self._authority.cert_pem.write_to_path(str(self.certificate_file))

    def issue(self, *names: str, label: str = "server") -> Certificate:
        """A certificate for these names, always valid for localhost and 127.0.0.1 as well.

        Good for servers and for clients, as server-to-server streams need. Files named by `label`.
        """
        identities = dict.fromkeys((*names, "localhost", "127.0.0.1"))
        leaf = self._authority.issue_cert(*identities, common_name=next(iter(identities)))
        chain = self.folder / f"{label}.crt"
        key = self.folder / f"{label}.key"
        chain.unlink(missing_ok=True)
        for blob in leaf.cert_chain_pems:
            blob.write_to_path(str(chain), append=True)
        key.touch(mode=0o600)
        leaf.private_key_pem.write_to_path(str(key))
        return Certificate(chain=chain, key=key)

    def close(self) -> None:
        """Remove the folder, unless it was passed in."""
        if not self._keeps_folder:
            shutil.rmtree(self.folder, ignore_errors=True)
