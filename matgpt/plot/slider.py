"""Sliders for a notebook."""


def slider(show, options, description=""):
    """A slider over `options`, (label, value) pairs or values, in a notebook: a move calls show(value).

    options: or a dict of them by description, a slider each: a move of one calls show with the values of all.
    What `show` prints or draws takes the place of what it showed before. Nothing runs until a first move,
    so that a notebook executed without a browser has nothing to wait for: put the static figure above.
    A page that has no widgets shows a sentence in the slider's place.
    """
    import ipywidgets
    from IPython.display import display

    class Slider(ipywidgets.VBox):
        def __repr__(self):  # what a page without widgets shows
            return "A slider: run this cell in a live notebook to move it."

    axes = options if isinstance(options, dict) else {description: options}
    choices = [
        ipywidgets.SelectionSlider(options=values, description=name, continuous_update=False)
        for name, values in axes.items()
    ]
    output = ipywidgets.Output()

    def moved(_):
        with output:
            output.clear_output(wait=True)
            show(*(choice.value for choice in choices))

    for choice in choices:
        choice.layout.width = "60%"
        choice.observe(moved, "value")
    display(Slider([*choices, output]))
