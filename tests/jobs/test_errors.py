import inspect
import re

from collegium.jobs import errors
from collegium.jobs.errors import JobsError

CLASSES = [value for value in vars(errors).values() if inspect.isclass(value)]


def test_the_tree_on_top_is_the_tree_below():
    """Every class stands in the module's drawing, one step to the right of the class it derives from."""
    assert errors.__doc__ is not None
    drawn = {}
    path = []
    for line in errors.__doc__.splitlines():
        match = re.match(r"    ([│├└─ ]*)([A-Z]\w+)", line)
        if match:
            depth = len(match[1]) // 4
            path[depth:] = [match[2]]
            drawn[match[2]] = path[depth - 1] if depth else None
    assert drawn.pop("JobsError") is None
    assert drawn == {cls.__name__: cls.__bases__[0].__name__ for cls in CLASSES if cls is not JobsError}


def test_every_error_derives_from_the_root_and_is_documented():
    for cls in CLASSES:
        assert issubclass(cls, JobsError)
        assert cls.__doc__
