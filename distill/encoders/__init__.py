"""Encoders of every kind: stock models wrapped, frozen, dealt out to processes, heard once and kept; and their cost."""
