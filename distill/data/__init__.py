"""Corpora become clips, clips become batches; the embedded corpus is spoken here."""
