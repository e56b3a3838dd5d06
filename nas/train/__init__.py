"""Full training of an exported architecture, by timm's own pipeline rather than by the proxy's loop.

:mod:`settings` says what is asked for and what follows from it, :mod:`pictures` feeds the images, :mod:`loop` trains,
:mod:`keeping` writes down where a training stands so that it can go on after any kill, :mod:`parallel` is one process
or several, :mod:`full` puts these together, :mod:`paired` compares with the bare backbone and :mod:`report` says it.
"""
