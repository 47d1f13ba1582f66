"""What checks shapes in the tests (pyproject.toml): beartype; an int may stand for a float."""

from beartype import BeartypeConf, beartype

check = beartype(conf=BeartypeConf(is_pep484_tower=True))
