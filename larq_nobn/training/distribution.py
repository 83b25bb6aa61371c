"""Training on several devices or machines."""

import contextlib
import json
import os
from collections.abc import Iterator

import tensorflow as tf

from larq_nobn._errors import UserError, one_of

STRATEGIES = ("mirrored", "multiworker")

# Raised by a collective when a peer is gone or does not answer.
_LOST_PEER = (
    tf.errors.UnavailableError,
    tf.errors.AbortedError,
    tf.errors.CancelledError,
    tf.errors.DeadlineExceededError,
    tf.errors.InternalError,
)


def make_strategy(name: str | None, batch_size: int) -> tf.distribute.Strategy:
    """Make the strategy that a run trains with.

    Args:
        name: `None` for one device, `"mirrored"` for all devices of this machine,
            `"multiworker"` for the workers that `TF_CONFIG` names.
        batch_size: The global batch size.

    Returns:
        The strategy.

    Raises:
        UserError: If the name is unknown, `TF_CONFIG` is missing or malformed, or the
            batch does not divide among the replicas.
    """
    one_of("distribute", name, (None, *STRATEGIES))
    if name is None:
        return tf.distribute.get_strategy()
    if name == "mirrored":
        devices = [device.name for device in tf.config.list_logical_devices("GPU")]
        devices = devices or [d.name for d in tf.config.list_logical_devices("CPU")]
        strategy = tf.distribute.MirroredStrategy(devices)
    else:
        _check_tf_config()
        strategy = tf.distribute.MultiWorkerMirroredStrategy()
    replicas = strategy.num_replicas_in_sync
    if batch_size % replicas:
        raise UserError(
            f"`batch_size` must divide among the {replicas} replicas",
            got=f"batch_size={batch_size}",
            fix=f"make it a multiple of {replicas}",
        )
    return strategy


def _check_tf_config() -> None:
    text = os.environ.get("TF_CONFIG")
    try:
        config = json.loads(text or "")
        workers = config["cluster"]["worker"]
        index = int(config["task"]["index"])
        fits = config["task"]["type"] == "worker" and 0 <= index < len(workers)
    except (ValueError, KeyError, TypeError):
        fits = False
    if not fits:
        raise UserError(
            "The environment variable TF_CONFIG must name all workers and this one's "
            "place among them",
            got=f"TF_CONFIG={text!r}",
            fix='for example TF_CONFIG=\'{"cluster": {"worker": ["host1:2222", '
            '"host2:2222"]}, "task": {"type": "worker", "index": 0}}\', '
            "index 1 on the second machine",
        )


def is_chief(strategy: tf.distribute.Strategy) -> bool:
    """Whether this process writes the run's files."""
    resolver = strategy.cluster_resolver
    return resolver is None or resolver.task_id in (None, 0)


def shard(batches: tf.data.Dataset) -> tf.data.Dataset:
    """Let the workers share each global batch, in one machine's order."""
    options = tf.data.Options()
    options.experimental_distribute.auto_shard_policy = (
        tf.data.experimental.AutoShardPolicy.DATA
    )
    return batches.with_options(options)


@contextlib.contextmanager
def watch_workers(strategy: tf.distribute.Strategy) -> Iterator[None]:
    """Say clearly that a worker was lost, and how to go on.

    Raises:
        UserError: If a peer is gone.
    """
    try:
        yield
    except _LOST_PEER as error:
        if strategy.cluster_resolver is None:
            raise
        reason = str(error).strip().splitlines()[0]
        raise UserError(
            "All workers must stay reachable",
            got=f"another worker is gone ({type(error).__name__}: {reason[:200]}). "
            "The last checkpoint is kept",
            fix="start all workers again with --resume",
        ) from error
