"""Artifacts on disk by content key, and archives of them."""

from harness.store.store import Busy, Store, StoreError, default_root, intact, read_manifest

__all__ = ["Busy", "Store", "StoreError", "default_root", "intact", "read_manifest"]
