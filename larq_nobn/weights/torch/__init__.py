"""Weights of published PyTorch networks, without PyTorch where it can be."""
