"""Muon for the matrices inside the blocks (Jordan et al. 2024, scaled as Liu et al. 2025), AdamW for the rest."""
import torch


def orthogonalise(g: torch.Tensor, steps: int = 5) -> torch.Tensor:
    """The quintic Newton-Schulz iteration, on a stack of matrices of one shape."""
    x = g.bfloat16()
    wide = x.shape[-2] <= x.shape[-1]
    if not wide:
        x = x.mT
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(steps):
        a = x @ x.mT
        x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
    return x if wide else x.mT


class Muon(torch.optim.Optimizer):
    def __init__(self, params, lr, momentum=0.95, weight_decay=0.1):
        super().__init__(list(params), {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            shapes = {}
            for p in group["params"]:
                if p.grad is not None:
                    shapes.setdefault(p.shape, []).append(p)
            for shape, params in shapes.items():
                grad = torch.stack([p.grad for p in params])
                state = self.state[params[0]]
                buffer = state.setdefault("momentum", torch.zeros_like(grad))
                buffer.lerp_(grad, 1 - group["momentum"])
                update = orthogonalise(grad.lerp(buffer, group["momentum"])).to(grad.dtype)
                scale = 0.2 * max(shape) ** 0.5
                torch._foreach_mul_(params, 1 - group["lr"] * group["weight_decay"])
                torch._foreach_add_(params, list(update.unbind(0)), alpha=-group["lr"] * scale)


class Both:
    """Two optimizers with one learning rate."""

    def __init__(self, model, lr, weight_decay=0.1, embedding_lr=1.0):
        inner = [p for n, p in model.named_parameters() if p.ndim == 2 and "embd" not in n and "embeddings" not in n]
        known = {id(p) for p in inner}
        rest = [p for p in model.parameters() if id(p) not in known]
        fused = rest[0].is_cuda
        self.peak = lr
        self.muon = Muon(inner, lr, weight_decay=weight_decay)
        self.adam = torch.optim.AdamW(rest, lr * embedding_lr, betas=(0.9, 0.95), weight_decay=0.0, fused=fused)
        self.scale = embedding_lr

    def step(self, factor: float):
        for opt, scale in ((self.muon, 1.0), (self.adam, self.scale)):
            for group in opt.param_groups:
                group["lr"] = self.peak * factor * scale
            opt.step()
            opt.zero_grad(set_to_none=True)


def warm_stable_decay(at: float, warm: float = 0.02, decay: float = 0.35, start: float = 1.0, end: float = 0.0) -> float:
    """The rate's factor when the part `at` of the training is done."""
    if at < warm:
        return start * (0.02 + 0.98 * at / warm)
    return start if at < 1 - decay else end + (start - end) * max(0.0, (1 - at) / decay)
