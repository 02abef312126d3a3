"""A slider for a notebook."""


def slider(show, options, description=""):
    """A slider over `options`, (label, value) pairs or values, in a notebook: a move calls show(value).

    What `show` prints or draws takes the place of what it showed before. Nothing runs until the first move, so
    that a notebook that is executed without a browser has nothing to wait for: put the static figure above it.
    A page that has no widgets shows a sentence in the slider's place.
    """
    import ipywidgets
    from IPython.display import display

    choice = ipywidgets.SelectionSlider(
        options=options, description=description, continuous_update=False, layout={"width": "60%"}
    )
    output = ipywidgets.Output()

    def moved(change):
        with output:
            output.clear_output(wait=True)
            show(change["new"])

    class Slider(ipywidgets.VBox):
        def __repr__(self):  # what a page without widgets shows
            return "A slider: run this cell in a live notebook to move it."

    choice.observe(moved, "value")
    display(Slider([choice, output]))
