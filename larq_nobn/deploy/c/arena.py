"""Where maps lie in the one block of memory that a network works in."""

from dataclasses import dataclass, field

from larq_nobn.deploy.c.graph import ADD, Graph, Scratch, Step, Value

_ALIGNMENT = 8


@dataclass(eq=False)
class _Block:
    """Memory of values that follow one another, from one step to another."""

    nbytes: int
    first: int
    last: int = 0
    values: list[Value] = field(default_factory=list)
    offset: int = 0


@dataclass(frozen=True)
class Plan:
    """The steps, and where their values are.

    Attributes:
        steps: The graph's, with copies where a sum would overwrite what is read later,
            and without those that only rename.
        offsets: Of each value, by `id`, in bytes; the caller's input has none.
        scratch: Of each step that needs scratch memory, by `id`.
        input_offset: Where an input that is made of pixels lies.
        nbytes: Size of the arena.
    """

    steps: list[Step]
    offsets: dict[int, int]
    scratch: dict[int, int]
    input_offset: int
    nbytes: int


def plan(graph: Graph, with_input: bool) -> Plan:
    """Give every value its place: in place where possible, else by lifetime.

    Args:
        graph: The steps.
        with_input: Whether the input is written into the arena, too.

    Returns:
        The plan.
    """
    steps = _with_copies(graph)
    last = _last_uses(steps, graph.output)
    source = _Block(graph.input.nbytes, -1, values=[graph.input])
    block_of = {id(graph.input): source}
    blocks, scratch = [], {}
    for i, step in enumerate(steps):
        for argument in step.arguments:
            if isinstance(argument, Scratch):
                scratch[id(step)] = _Block(argument.nbytes, i, i)
        output = step.output
        if id(output) in block_of:
            continue
        block = block_of.get(id(step.in_place))
        if step.kernel != "alias":
            is_free = block not in (None, source) and block.nbytes >= output.nbytes
            if not is_free or any(last[id(v)] > i for v in block.values):
                block = _Block(output.nbytes, i)
                blocks.append(block)
        block.values.append(output)
        block_of[id(output)] = block
    for block in (source, *blocks):
        block.last = max(last.get(id(v), -1) for v in block.values)
    nbytes = _place([*([source] if with_input else []), *blocks, *scratch.values()])
    return Plan(
        steps,
        {key: b.offset for key, b in block_of.items() if b is not source},
        {key: block.offset for key, block in scratch.items()},
        source.offset,
        nbytes,
    )


def _last_uses(steps: list[Step], output: Value) -> dict[int, int]:
    last: dict[int, int] = {}
    for i, step in enumerate(steps):
        last[id(step.output)] = i
        last.update((id(x), i) for x in step.inputs)
    last[id(output)] = len(steps)
    return last


def _with_copies(graph: Graph) -> list[Step]:
    """Copy what a convolution adds to, where somebody else reads it later."""
    roots: dict[int, Value] = {}
    for step in graph.steps:
        if step.kernel == "alias":
            x = step.inputs[0]
            roots[id(step.output)] = roots.get(id(x), x)

    def root(value):
        return roots.get(id(value), value)

    last: dict[int, int] = {}
    for i, step in enumerate(graph.steps):
        last.update((id(root(x)), i) for x in step.inputs)
    last[id(root(graph.output))] = len(graph.steps)
    steps = []
    for i, step in enumerate(graph.steps):
        other = step.in_place
        if step.kernel == "bconv" and step.flags & ADD:
            under = root(other)
            if under is graph.input or last[id(under)] > i:
                copied = Value(other.shape, name=other.name)
                size = other.size
                arguments = [other, 1, size, size, size, copied]
                steps.append(Step("copy", arguments, [other], copied, step.layer))
                step.in_place = copied
                step.inputs[step.inputs.index(other)] = copied
        steps.append(step)
    return steps


def _place(blocks: list[_Block]) -> int:
    """Set offsets, the largest blocks first, each at the lowest free place."""
    placed: list[_Block] = []
    for block in sorted(blocks, key=lambda b: (-b.nbytes, b.first)):
        block.offset = 0
        near = (b for b in placed if b.first <= block.last and block.first <= b.last)
        for other in sorted(near, key=lambda b: b.offset):
            if block.offset + block.nbytes <= other.offset:
                break
            end = other.offset + other.nbytes
            end += -end % _ALIGNMENT
            block.offset = max(block.offset, end)
        placed.append(block)
    most = max(b.offset + b.nbytes for b in placed) if placed else 0
    return max(most + -most % _ALIGNMENT, _ALIGNMENT)
