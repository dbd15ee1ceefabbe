"""Bytes and URIs: stores, shards and their cache. Knows nothing of training."""
