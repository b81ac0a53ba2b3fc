"""The error family and the hint it gives."""

from competition.errors import ConfigurationError, Top7Error, nearest


def test_exit_codes():
    assert Top7Error("x").exit_code == 1 and ConfigurationError("x").exit_code == 2
    assert issubclass(ConfigurationError, Top7Error)


def test_nearest():
    assert nearest("colour", ["color", "layer"]) == "did you mean 'color'? known: color, layer"
    assert nearest("LAYER", ["color", "layer"]) == "did you mean 'layer'? known: color, layer"
    assert nearest("zzz", ["color", "layer"]) == "known: color, layer"
    assert nearest(3, []) == "known: "
    assert nearest("a", [f"x{i}" for i in range(25)]).endswith("x18, x19, and 5 more")
