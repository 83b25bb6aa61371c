"""What each kind of device wants of the graph."""

from dataclasses import dataclass

from larq_nobn._errors import one_of


@dataclass(frozen=True)
class Target:
    """A kind of device.

    Attributes:
        name: The name that users give.
        binary: Whether it runs Larq Compute Engine's binary operators.
        zero_padding: Whether its binary convolutions can pad with zeros.
        turned: Whether images may be turned to save padding; see `geometry`. (Runtimes
            for microcontrollers have no operator for it.)
        widens: Whether its runtimes widen float16, and int8 by a scale per channel.
            (TensorFlow Lite Micro knows no float16, and takes the first channel's scale
            for all.)
    """

    name: str
    binary: bool
    zero_padding: bool
    turned: bool
    widens: bool


TARGETS = {
    target.name: target
    for target in (
        Target("arm", binary=True, zero_padding=True, turned=True, widens=True),
        Target("xcore", binary=True, zero_padding=False, turned=False, widens=True),
        Target("tflite", binary=False, zero_padding=True, turned=False, widens=False),
    )
}


def get_target(name: str) -> Target:
    """Look up a target.

    Raises:
        UserError: If there is none of that name.
    """
    one_of("target", name, TARGETS)
    return TARGETS[name]
