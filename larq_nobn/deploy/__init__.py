"""Export to Larq Compute Engine and TFLite: exact, checked, measured."""
