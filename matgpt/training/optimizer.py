"""How weights move: Muon for matrices, AdamW for the rest, and the learning rate."""

import math

import torch
import torch.nn.functional as F

from ..nested import NestedLinear


def orthogonalize(x):
    """Nearly the nearest semi-orthogonal matrix to each of x (n, rows, columns): singular values between 0.7 and 1.2.

    The quintic Newton-Schulz iteration, and its coefficients, of Muon (https://kellerjordan.github.io/posts/muon).
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    tall = x.size(-2) > x.size(-1)
    x = x.mT if tall else x
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(5):
        square = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(square, square, square, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x


def even(x):
    """Orthogonalized matrices x (n, rows, columns), with the rows of a tall one, the columns of a wide one, made equally long.

    In a feedforward these are its hidden units. There are fewer dimensions than units, so these share them out, and those
    that several dolls read, with their larger gradients, would move twice as far as the rest. NorMuon (2510.05491)
    evens rows out by a running average.
    """
    rows, columns = x.shape[-2:]
    if rows == columns:
        return x
    return F.normalize(x, dim=-1 if rows > columns else -2) * (min(rows, columns) / max(rows, columns)) ** 0.5


class Muon(torch.optim.Optimizer):
    """Momentum made orthogonal, then even, for the matrices of the blocks; the rest is AdamW's.

    Every matrix has rows = outputs and columns = inputs, whatever axes it is stored with (torch.optim.Muon takes two
    axes alone, and works in bfloat16, which many CPUs do slowly). The step has a root mean square of 0.2 * lr, about
    that of AdamW's, so that both take one learning rate (2502.16982, section 2.2).
    """

    def __init__(self, model, lr, weight_decay, momentum=0.95):
        layers = [layer for layer in model.modules() if isinstance(layer, NestedLinear)]
        super().__init__(
            [layer.weight for layer in layers], dict(lr=lr, weight_decay=weight_decay, momentum=momentum)
        )
        self.alike = {}  # weights of one shape, (outputs, inputs), make one batch of matrices
        for layer in layers:
            matrices = 3 if len(layer.out_shape) == 3 else 1  # queries, keys and values are a matrix each
            shape = matrices, math.prod(layer.out_shape) // matrices, math.prod(layer.in_shape)
            self.alike.setdefault(shape, []).append(layer.weight)

    @torch.no_grad()
    def step(self):
        group = self.param_groups[0]
        lr, decay, momentum = group["lr"], group["weight_decay"], group["momentum"]
        for (_, outputs, inputs), weights in self.alike.items():
            ahead = []
            for w in weights:
                average = self.state[w].setdefault("momentum", torch.zeros_like(w))
                average.lerp_(w.grad, 1 - momentum)
                ahead.append(
                    w.grad.lerp(average, momentum).view(-1, outputs, inputs)
                )  # Nesterov's look ahead
            steps = even(orthogonalize(torch.cat(ahead))).split([len(matrices) for matrices in ahead])
            for w, step in zip(weights, steps):
                w.mul_(1 - lr * decay).sub_(
                    step.reshape(w.shape), alpha=lr * 0.2 * max(outputs, inputs) ** 0.5
                )


class Optimizers(list):
    """Several optimizers that step as one, each with its own parameters."""

    def step(self):
        for optimizer in self:
            optimizer.step()

    def zero_grad(self):
        for optimizer in self:
            optimizer.zero_grad()

    def groups(self):
        """The parameter groups of all, whose "lr" a schedule sets."""
        return [group for optimizer in self for group in optimizer.param_groups]

    def state_dict(self):
        return [optimizer.state_dict() for optimizer in self]

    def load_state_dict(self, states):
        for optimizer, state in zip(self, states, strict=True):
            optimizer.load_state_dict(state)


def make_optimizers(kind, model, lr, weight_decay):
    """ "muon": Muon for the matrices of the blocks and AdamW for the rest; "adamw": AdamW for all, as nanoGPT.

    Matrices and embeddings decay, biases and norms do not.
    """
    if kind not in ("muon", "adamw"):
        raise ValueError(f'optimizer={kind!r} must be "muon" or "adamw"')
    optimizers = Optimizers([Muon(model, lr, weight_decay)] if kind == "muon" else [])
    taken = {id(p) for group in optimizers.groups() for p in group["params"]}
    decay, rest = {"params": [], "weight_decay": weight_decay}, {"params": [], "weight_decay": 0.0}
    for name, p in model.named_parameters():
        if id(p) not in taken:
            (rest if p.dim() < 2 or name.endswith("bias") else decay)["params"].append(p)
    optimizers.append(torch.optim.AdamW([decay, rest], lr=lr, betas=(0.9, 0.99), fused=True))
    return optimizers


def learning_rate(step, steps, lr, warmup):
    """Linear warm-up, then linearly down to zero (2502.15938)."""
    if step < warmup:
        return lr * (step + 1) / (warmup + 1)
    return lr * (steps - step) / max(1, steps - warmup)


def default_lr(config):
    """Peak learning rate: 8e-3 at 128 wide was measured; wider models take less, in proportion."""
    return 1.024 / config.n_embd
