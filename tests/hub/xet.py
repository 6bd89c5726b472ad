"""The local store of hf-xet: what real clients write when the Hub sends them to ``local://``.

An internal of hf-xet 1.8, which takes a lock: one client process at a time.
"""

from __future__ import annotations

import struct
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

_READ = """
import sys, hf_xet
store, xet_hash, size, place = sys.argv[1:]
session = hf_xet.XetSession()
with session.new_file_download_group(
    endpoint=store, token="none", token_expiry_unix_secs=2**40, token_refresh_url="",
    token_refresh_headers={}, custom_headers={}, progress_callback=None,
) as group:
    group.start_download_file(hf_xet.XetFileInfo(xet_hash, int(size)), place)
"""
_RECORD = 48  # bytes: every header and record of a shard
_HAS_VERIFICATION, _HAS_SHA256 = 1 << 31, 1 << 30


@dataclass(frozen=True)
class XetStore:
    """The folder, and what is in it."""

    folder: Path

    @property
    def url(self) -> str:
        return f"local://{self.folder}"

    def objects(self) -> dict[str, tuple[str, int]]:
        """Xet hash and size in bytes, by sha256: the commit of a client names only the sha256."""
        found: dict[str, tuple[str, int]] = {}
        for shard in sorted(self.folder.glob("xet/xorbs/shards/*.mdb")):
            found |= _shard(shard.read_bytes())
        return found

    def read(self, xet_hash: str, size: int) -> bytes:
        """The content, by a process of its own: a store stays locked as long as a session lives."""
        with tempfile.TemporaryDirectory() as folder:
            place = Path(folder) / "content"
            arguments = [self.url, xet_hash, str(size), str(place)]
            subprocess.run([sys.executable, "-c", _READ, *arguments], check=True, timeout=60)
            return place.read_bytes()


def _shard(data: bytes) -> dict[str, tuple[str, int]]:
    """The files of a shard: a header; per file a record, its segments, and what its flags say."""
    found: dict[str, tuple[str, int]] = {}
    place = _RECORD
    while data[place : place + 32] != b"\xff" * 32 and place < len(data):
        flags, count = struct.unpack_from("<II", data, place + 32)
        segments = [place + _RECORD * (i + 1) for i in range(count)]
        size = sum(struct.unpack_from("<I", data, start + 36)[0] for start in segments)
        end = place + _RECORD * (1 + count * (2 if flags & _HAS_VERIFICATION else 1))
        if flags & _HAS_SHA256:
            sha256 = _hex(data[end : end + 32])
            found[sha256] = (_hex(data[place : place + 32]), size)
            end += _RECORD
        place = end
    return found


def _hex(raw: bytes) -> str:
    """Four little-endian numbers, as hf-xet prints a hash."""
    return "".join(f"{number:016x}" for number in struct.unpack("<4Q", raw))
