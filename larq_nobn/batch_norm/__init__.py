"""Batch norm taken out of networks that are not the zoo's.

`remove_batch_norm` makes the normalizer-free twin of a network, to be trained;
`fold_batch_norm` the same network without batch norm, for inference.
"""

from larq_nobn.batch_norm.folding import fold_batch_norm
from larq_nobn.batch_norm.removal import Change, describe_removal, remove_batch_norm

__all__ = ["Change", "describe_removal", "fold_batch_norm", "remove_batch_norm"]
