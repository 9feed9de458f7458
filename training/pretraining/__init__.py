"""Pretraining of both families."""
