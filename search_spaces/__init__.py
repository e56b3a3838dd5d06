"""Search spaces as declarations: each module is a docstring and ``SPACE = SearchSpace(...)``. Copy one to start."""
