"""How weights move: Muon for matrices, AdamW for the rest, each on the corner that a step's dolls read."""

import math

import torch
from torch.optim.adamw import adamw

from ..nested import NestedLinear, corner

ITERATIONS = 3


def as_matrices(layer, shape):
    """(matrices, outputs, inputs) of a corner of a weight: queries, keys and values of each head are one."""
    inputs, outputs = math.prod(shape[-len(layer.in_shape) :]), shape[len(layer.out_shape) - 1]
    return math.prod(shape) // inputs // outputs, outputs, inputs


def orthogonalize(x):
    """Nearly the nearest semi-orthogonal matrix to each of x (n, rows, columns).

    The quintic Newton-Schulz iteration, and its coefficients, of Muon
    (https://kellerjordan.github.io/posts/muon): three times, where it has five, does as well here. Each time
    turns x into p x, and G = x xᵀ into p² G, with p = a + b G + c G². All of these are polynomials of the
    first G, which commute: so the products are of small square matrices, and x itself waits for the last.
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
    """Orthogonalized x (n, rows, columns), the rows of a tall matrix, columns of a wide one, equally long.

    In a feedforward these are its hidden units. There are fewer dimensions than units, so these share them
    out, and those that several dolls read, with their larger gradients, would move twice as far as the rest.
    NorMuon (2510.05491) evens rows out by a running average.
    """
    rows, columns = x.shape[-2:]
    if rows == columns:
        return x
    # not `norm`, which takes ten times as long along a dimension that is not the last in memory
    squares = (x * x).sum(-1 if rows > columns else -2, keepdim=True).clamp(min=1e-24)
    return x * (min(rows, columns) / max(rows, columns) / squares).sqrt()


class Muon(torch.optim.Optimizer):
    """Momentum made orthogonal, then even, for the matrices of the blocks; the rest is AdamW's.

    Queries, keys and values of each head are matrices of their own, since dolls read whole heads. Every
    matrix has rows = outputs and columns = inputs, whatever axes it is stored with (that of torch takes two
    axes alone, and always works in bfloat16). The step has a root mean square of about 0.2 * lr, as AdamW's
    has, so that both take one learning rate (2502.16982, section 2.2).
    """

    def __init__(self, model, lr, weight_decay):
        layers = [(name, layer) for name, layer in model.named_modules() if isinstance(layer, NestedLinear)]
        self.layers = {f"{name}.weight".replace('_orig_mod.', ''): layer for name, layer in layers if layer.weight.requires_grad}
        group = {"params": [layer.weight for layer in self.layers.values()]}  # none, if all are frozen
        super().__init__([group], dict(lr=lr, weight_decay=weight_decay, momentum=0.95))

    @torch.no_grad()
    def step(self, read):
        """read: {parameter: shape}, the corner that moves; what lies outside stays as it is."""
        group, alike = self.param_groups[0], {}
        lr, decay, momentum = group["lr"], group["weight_decay"], group["momentum"]
        for name, layer in self.layers.items():
            w = layer.weight
            if name in read and w.grad is not None:
                average = self.state[w].setdefault("momentum", torch.zeros_like(w))
                w, grad, average = (corner(x, *read[name]) for x in (w, w.grad, average))
                average.lerp_(grad, 1 - momentum)
                shape = as_matrices(layer, w.shape)
                ahead = grad.lerp(average, momentum).reshape(shape)  # Nesterov's look ahead
                alike.setdefault(shape, []).append((w, ahead))
        for (_, outputs, inputs), some in alike.items():  # weights of one shape make one batch of matrices
            weights, ahead = zip(*some)
            steps = even(orthogonalize(torch.cat(ahead))).split([len(matrices) for matrices in ahead])
            length = lr * 0.2 * max(outputs, inputs) ** 0.5
            for w, step in zip(weights, steps):
                w.mul_(1 - lr * decay).sub_(step.reshape(w.shape), alpha=length)

    def flops(self, read):
        """FLOPs of the products: two with a matrix of r rows and c columns, r <= c, the others r by r."""
        total = 0
        for name, layer in self.layers.items():
            if name in read:
                n, *sides = as_matrices(layer, read[name])
                r, c = sorted(sides)
                total += n * (4 * r * r * c + (8 * ITERATIONS - 6) * r**3)
        return total


class AdamW(torch.optim.AdamW):
    """PyTorch's, on the corner of every parameter that a step's dolls read."""

    def __init__(self, named, lr, weight_decay):
        self.names = {p: name for name, p in named}
        vectors = {p for p, name in self.names.items() if p.dim() < 2 or name.endswith("bias")}
        matrices = [p for p in self.names if p not in vectors]
        groups = [
            {"params": matrices, "weight_decay": weight_decay},
            {"params": [p for p in self.names if p in vectors], "weight_decay": 0.0},
        ]
        super().__init__(groups, lr=lr, betas=(0.9, 0.99), fused=True)

    @torch.no_grad()
    def step(self, read):
        """read: as in `Muon.step`."""
        if all(p.shape == read.get(name) for p, name in self.names.items()):
            super().step()
            return
        for group in self.param_groups:
            found = []
            for p in group["params"]:
                if p.grad is not None and self.names[p] in read:
                    state = self.state[p]
                    if not state:
                        state["step"] = torch.zeros((), device=p.device)
                        state.update({name: torch.zeros_like(p) for name in ("exp_avg", "exp_avg_sq")})
                    shape = read[self.names[p]]
                    whole = p, p.grad, state["exp_avg"], state["exp_avg_sq"]
                    found.append((*(corner(x, *shape) for x in whole), state["step"]))
            if found:
                p, grads, averages, squares, steps = map(list, zip(*found))
                same = {name: group[name] for name in ("lr", "weight_decay", "eps", "amsgrad", "maximize")}
                same["beta1"], same["beta2"] = group["betas"]
                adamw(p, grads, averages, squares, [], steps, foreach=False, **same)

    def flops(self, read):
        """About 15 multiplications, additions and roots for each number that moves."""
        return 15 * sum(math.prod(read[name]) for name in self.names.values() if name in read)


class Optimizers(list):
    """Several optimizers that step as one, each with its own parameters."""

    def step(self, read):
        for optimizer in self:
            optimizer.step(read)

    def flops(self, read):
        """What a step costs on that corner."""
        return sum(optimizer.flops(read) for optimizer in self)

    def set_lr(self, lr):
        for optimizer in self:
            for group in optimizer.param_groups:
                group["lr"] = lr

    def state_dict(self):
        return [optimizer.state_dict() for optimizer in self]

    def load_state_dict(self, states):
        for optimizer, state in zip(self, states, strict=True):
            optimizer.load_state_dict(state)


def make_optimizers(kind, model, lr, weight_decay):
    """Muon for the matrices of the blocks and AdamW for the rest ("muon"), or AdamW for all ("adamw").

    Matrices and embeddings decay, biases and norms do not. Frozen parameters are left alone.
    """
    if kind not in ("muon", "adamw"):
        raise ValueError(f'optimizer={kind!r} must be "muon" or "adamw"')
    optimizers = Optimizers([Muon(model, lr, weight_decay)] if kind == "muon" else [])
    taken = optimizers[0].layers if optimizers else {}
    named = [(name.replace('_orig_mod.', ''), p) for name, p in model.named_parameters()]
    rest = [(name, p) for name, p in named if p.requires_grad and name not in taken]
    optimizers.append(AdamW(rest, lr, weight_decay))
    return optimizers


def learning_rate(spent, lr, warmup):
    """Linear warm-up over the share `warmup` of the budget, then linearly down to zero (2502.15938).

    spent: the share of the budget that is spent, from 0 to 1.
    """
    return lr * min((spent + 1e-3) / (warmup + 1e-3), (1 - spent) / (1 - warmup))


def default_lr(config):
    """Peak learning rate: 8e-3 at 128 wide was measured; wider models take less, in proportion."""
    return 1.024 / config.n_embd
