"""Small random models that the tests share."""

import json
import random
from types import SimpleNamespace

import pytest
import torch

from matgpt import GPTConfig, MatryoshkaEmbeddingsGPT, MatryoshkaGPT, Size

torch.set_num_threads(1)  # tiny models: more threads only wait for each other

VOCAB, BLOCK = 11, 7


@pytest.fixture(params=[MatryoshkaGPT, MatryoshkaEmbeddingsGPT])
def variant(request):
    return request.param


def random_model(variant, config, seed=0):
    """A model in double precision, every parameter of it drawn: no bias is 0 and no gain is 1."""
    generator = torch.Generator().manual_seed(seed)
    model = variant(config).double()
    for name, p in model.named_parameters():
        is_gain = "norm" in name and name.endswith("weight")
        torch.nn.init.normal_(p, 1.0 if is_gain else 0.0, 0.3, generator=generator)
    return model


def assert_refused(message, function, *args, **options):
    """Assert that the call raises a ValueError that says `message`, a regular expression."""
    __tracebackhide__ = True
    with pytest.raises(ValueError, match=message):
        function(*args, **options)


def contents(folder):
    """Return what each file of a folder holds: {name: bytes}."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != ".matgpt-lock"}


def edit_json(path, change):
    """Change what a JSON file holds, in place, by a function."""
    content = json.loads(path.read_bytes())
    change(content)
    path.write_text(json.dumps(content))


def draw_size(rng, full, head_size):
    """A Size inside `full`, each axis cut on its own. Heads are whole, or divide the width."""
    while True:
        d, h, l = rng.randint(2, full.n_embd), rng.randint(1, full.n_head), rng.randint(1, full.n_layer)
        if d // h >= head_size or d % h == 0:
            break
    most = full.inner[:l]
    alike = rng.random() < 0.3
    return Size(d, h, l, min(most) if alike else tuple(rng.randint(1, f) for f in most))


@pytest.fixture(params=range(12))
def drawn(request):
    """A random config, a random Size inside it, and an inner one inside that."""
    rng = random.Random(request.param)
    n_head, head_size, n_layer = rng.randint(1, 4), rng.randint(2, 5), rng.randint(1, 3)
    roomy = rng.random() < 0.3  # heads that do not fill the width
    options = dict(head_size=head_size) if roomy else {}
    n_embd = n_head * head_size + 3 * roomy
    n_inner = rng.choice([None, 9, tuple(rng.randint(3, 20) for _ in range(n_layer))])
    bias = rng.random() < 0.6
    config = GPTConfig(VOCAB, BLOCK, n_embd, n_head, n_layer, None, n_inner, bias=bias, **options)
    size = draw_size(rng, config.full, head_size)
    head = config.head_size_of(size)
    inner = draw_size(rng, size, head)
    while config.head_size_of(inner) > head:  # wider heads than those of `size`: not inside it
        inner = draw_size(rng, size, head)
    idx = torch.tensor([[rng.randrange(VOCAB - 3) for _ in range(BLOCK - 2)] for _ in range(2)])
    return SimpleNamespace(config=config, size=size, inner=inner, idx=idx)
