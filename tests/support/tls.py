"""Certificates of a private authority for servers on loopback."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import trustme


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsFiles:
    """PEM files: the authority, and a certificate with its key."""

    ca: Path
    certificate: Path
    private_key: Path


class PrivateCa:
    """Makes certificates into a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._authority = trustme.CA()
        self.path = folder / "ca.pem"
        self._authority.cert_pem.write_to_path(self.path)

    def issue(self, *names: str) -> TlsFiles:
        """For host names or addresses; the first names the files."""
        issued = self._authority.issue_cert(*names)
        stem = names[0].replace(":", "_").replace("*", "any")
        files = TlsFiles(
            ca=self.path,
            certificate=self._folder / f"{stem}.crt",
            private_key=self._folder / f"{stem}.key",
        )
        for index, blob in enumerate(issued.cert_chain_pems):
            blob.write_to_path(files.certificate, append=index > 0)
        issued.private_key_pem.write_to_path(files.private_key)
        return files
