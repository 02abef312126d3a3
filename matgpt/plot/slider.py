"""A slider for a notebook."""


def slider(show, options, description=""):
    """A slider over `options`, (label, value) pairs or values, for a notebook: moving it calls show(value).

    What `show` prints or draws takes the place of what it showed before. Nothing runs until the first move, so that
    a notebook that is executed without a browser has nothing to wait for: put the static figure above it.
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

    choice.observe(moved, "value")
    display(choice, output)
