"""Sliders for a notebook."""

from collections.abc import Iterable


def slider(show, options, description=""):
    """Show a slider over `options`, values or (label, value) pairs, and call show(value) at every move.

    options: or a dict {description: options}, a slider each; show then takes the values of all in that order.
    The first call is made at once with the last option of each, the full size. What `show` prints or draws
    replaces what it showed before. A page without a kernel shows a sentence in the slider's place.
    """
    import ipywidgets
    from IPython.display import display

    axes = options if isinstance(options, dict) else {description: options}
    sliders = {}
    for name, values in axes.items():
        if not isinstance(values, Iterable) or not (values := list(values)):
            raise ValueError(f"options={values!r} of a slider must hold at least one value")
        choices = dict(options=values, index=len(values) - 1, description=name)
        style = dict(continuous_update=False, layout=dict(width="60%"))
        sliders[name] = ipywidgets.SelectionSlider(**choices, **style)
    output = ipywidgets.interactive_output(lambda **values: show(*values.values()), sliders)
    box = ipywidgets.VBox([*sliders.values(), output])
    static = {"text/plain": "A slider: run this cell in a live notebook to move it."}
    display(box._repr_mimebundle_() | static, raw=True)
