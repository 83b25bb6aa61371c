import inspect

import pytest

from larq_nobn import zoo
from larq_nobn.zoo import entry_points

ENTRY_POINTS = {
    f"{stem}{suffix}": (name, norm)
    for stem, name in (
        ("ReActNet", "reactnet_a"),
        ("ReActNet18", "reactnet18"),
        ("ReActNet34", "reactnet34"),
    )
    for suffix, norm in (("NoBN", "free"), ("BN", "batch"), ("Plain", "none"))
}
ENTRY_POINTS |= {
    f"ABNet{suffix}": (f"abnet{name}", "free")
    for suffix, name in (("18", "18"), ("34", "34"), ("A", "_a"))
}


@pytest.mark.slow
@pytest.mark.parametrize("entry_point", ENTRY_POINTS)
def test_entry_points(entry_point, monkeypatch):
    """Each hands all of its arguments on, and has no defaults of its own."""
    build = getattr(zoo, entry_point)
    assert build.__name__ == entry_point
    name, norm = ENTRY_POINTS[entry_point]
    signature = inspect.signature(build).parameters
    defaults = {key: p.default for key, p in signature.items()}
    create = inspect.signature(zoo.create_model).parameters
    # Behind a network's own name, weights left open are none.
    expected = {key: create[key].default for key in defaults} | {"weights": None}
    assert defaults == expected
    assert {p.kind for p in signature.values()} == {inspect.Parameter.KEYWORD_ONLY}
    documented = build.__doc__
    assert all(f"{key}:" in documented for key in defaults)

    calls = []
    monkeypatch.setattr(
        entry_points,
        "create_model",
        lambda *args, **kwargs: calls.append((args, kwargs)),
    )
    build()
    for wrong in ({"depth": 18}, {"norm": "batch"}):
        with pytest.raises(TypeError, match="unexpected keyword argument"):
            build(**wrong)
    given = {key: object() for key in defaults}
    build(**given)
    assert calls == [
        ((name,), {"norm": norm}),
        ((name,), {**given, "norm": norm}),
    ]
