"""Optimizers: Muon for the matrices of the blocks, AdamW for the rest."""

import math

import torch

from ..nested import NestedLinear

# Of orthogonalize. Three do as well as the usual five (LOG.md, "Muon for less"). Five are unsafe in its
# small-square form under bfloat16: on gradients of low rank they gave singular values of 26 to 1,141.
ITERATIONS = 3


def as_matrices(layer):
    """Return (matrices, outputs, inputs) of a weight: queries, keys and values of each head are one each."""
    shape = layer.weight.shape
    inputs, outputs = math.prod(layer.in_shape), shape[len(layer.out_shape) - 1]
    return math.prod(shape) // inputs // outputs, outputs, inputs


def orthogonalize(x):
    """Return nearly the nearest semi-orthogonal matrix to each of x (n, rows, columns).

    This is the quintic Newton-Schulz iteration of Muon (https://kellerjordan.github.io/posts/muon), with its
    coefficients. One iteration turns x into p x, and G = x xᵀ into p² G, with p = a + b G + c G². Every
    iterate is a polynomial in the initial Gram matrix, so they commute, and we iterate on the small square
    matrix only; x itself is multiplied once, at the end.
    """
    a, b, c = 3.4445, -4.7750, 2.0315

    def polynomial(square):
        p = torch.baddbmm(square, square, square, beta=b, alpha=c)
        p.diagonal(dim1=-2, dim2=-1).add_(a)
        return p

    tall = x.size(-2) > x.size(-1)
    x = x.mT if tall else x
    square = x @ x.mT
    norm = torch.einsum("nii->n", square).sqrt()[:, None, None] + 1e-7  # of x: the root of the trace
    square = square / norm**2
    p = polynomial(square)
    product = p / norm
    for _ in range(ITERATIONS - 1):
        square = p @ (p @ square)
        p = polynomial(square)
        product = p @ product
    x = product @ x
    return x.mT if tall else x


def even(x):
    """Give the rows of a tall matrix (the columns of a wide one) in x (n, rows, columns) one norm.

    In a feedforward these are its hidden units. It has more units than dimensions, so orthogonal updates
    share the dimensions out among the units, and those that several dolls read, with their larger gradients,
    would move twice as far as the rest. NorMuon (2510.05491) evens rows out by a running average.
    """
    rows, columns = x.shape[-2:]
    if rows == columns:
        return x
    # `norm` takes ten times as long along a dimension that is not the last in memory
    squares = (x * x).sum(-1 if rows > columns else -2, keepdim=True).clamp(min=1e-24)
    return x * (min(rows, columns) / max(rows, columns) / squares).sqrt()


class Muon(torch.optim.Optimizer):
    """Momentum made orthogonal and even, for the matrices of the blocks.

    Queries, keys and values of each head are matrices of their own, since dolls may leave heads out. Every
    matrix has rows = outputs and columns = inputs, whatever axes it is stored with. (torch.optim.Muon takes
    weights of two axes only, and always works in bfloat16.) The update has a root mean square of about
    0.2 * lr, as AdamW's has, so that both take one learning rate (2502.16982, section 2.2).
    """

    def __init__(self, layers, lr, weight_decay):
        self.layers, defaults = layers, dict(lr=lr, weight_decay=weight_decay, momentum=0.95)
        super().__init__([layer.weight for layer in layers], defaults)

    @torch.no_grad()
    def step(self):
        group, by_shape = self.param_groups[0], {}
        lr, decay, momentum = group["lr"], group["weight_decay"], group["momentum"]
        for layer in self.layers:
            w = layer.weight
            if w.grad is not None:
                if "momentum" not in self.state[w]:
                    self.state[w]["momentum"] = torch.zeros_like(w)
                average = self.state[w]["momentum"]
                average.lerp_(w.grad, 1 - momentum)
                shape = as_matrices(layer)
                ahead = w.grad.lerp(average, momentum).reshape(shape)  # Nesterov's look ahead
                by_shape.setdefault(shape, []).append((w, ahead))
        for shape, pairs in by_shape.items():  # weights of one shape make one batch of matrices
            weights, ahead = zip(*pairs)
            updates = even(orthogonalize(torch.cat(ahead))).split([len(matrices) for matrices in ahead])
            length = lr * 0.2 * max(shape[1:]) ** 0.5  # shape: (matrices, outputs, inputs)
            for w, update in zip(weights, updates):
                w.mul_(1 - lr * decay).sub_(update.reshape(w.shape), alpha=length)


def muon_layers(model):
    """Return the layers whose weights Muon moves: those of the blocks that are not frozen."""
    layers = (layer for layer in model.modules() if isinstance(layer, NestedLinear))
    return [layer for layer in layers if layer.weight.requires_grad]


def make_optimizers(kind, model, lr, weight_decay):
    """Return a list: Muon for the matrices of the blocks and AdamW for the rest, or ("adamw") AdamW for all.

    Matrices and embeddings decay, biases and norms do not. Raises ValueError if all parameters are frozen,
    on the meta device or made in inference mode.
    """
    weight = next(model.parameters())
    if weight.is_meta or weight.is_inference():
        made = "on the meta device" if weight.is_meta else "inside torch.inference_mode()"
        raise ValueError(f"the model was made {made}, so it has no weights that can be trained")
    layers = muon_layers(model) if kind == "muon" else []
    optimizers = [Muon(layers, lr, weight_decay)] if layers else []
    taken, decaying, others = {layer.weight for layer in layers}, [], []
    for name, p in model.named_parameters():
        if p.requires_grad and p not in taken:
            (others if p.dim() < 2 or name.endswith("bias") else decaying).append(p)
    if decaying or others:
        groups = [{"params": decaying, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]
        optimizers.append(torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.99), fused=True))
    if not optimizers:
        raise ValueError("all parameters of the model are frozen: there is nothing to train")
    return optimizers


def learning_rate(progress, lr, warmup):
    """Return the rate: up from zero over the share `warmup` of the budget, then down to zero (2502.15938).

    progress: the share of the budget that is spent, from 0 to 1.
    """
    return lr * min((progress + 1e-3) / (warmup + 1e-3), (1 - progress) / (1 - warmup))


def default_lr(config):
    """Return the peak learning rate: 8e-3 was measured at 128 wide; wider models take less in proportion."""
    return 1.024 / config.n_embd
