"""Adapters: small trainable matrices beside the frozen layers of a vision transformer."""
