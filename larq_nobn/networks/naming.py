"""Names of blocks, and of the layers in them."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Place:
    """Where a layer is in its network.

    Attributes:
        names: How the network names its blocks.
        numbers: The numbers in the block's name.
        part: What the layer is in the block, such as `"conv"`.
    """

    names: "BlockNames"
    numbers: tuple[int, ...]
    part: str

    @property
    def block(self) -> str:
        """The block's name."""
        return self.names.block(*self.numbers)


@dataclass(frozen=True)
class BlockNames:
    """How a plan names its blocks: words with numbers, such as `stage1_unit2`.

    A layer in a block has the block's name, and its part in it: `stage1_unit2_conv`.

    Attributes:
        words: The words.
    """

    words: tuple[str, ...]

    def block(self, *numbers: int) -> str:
        """The name of a block."""
        pairs = zip(self.words, numbers, strict=True)
        return "_".join(f"{word}{number}" for word, number in pairs)

    def place(self, layer: str) -> Place | None:
        """Where a layer of this name is; `None` if it is in no such block."""
        *heads, part = layer.split("_", len(self.words))
        digits = [h.removeprefix(w) for h, w in zip(heads, self.words, strict=False)]
        if len(heads) < len(self.words) or not all(d.isdecimal() for d in digits):
            return None
        place = Place(self, tuple(map(int, digits)), part)
        return place if layer == f"{place.block}_{part}" else None
