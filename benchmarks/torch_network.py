"""A plain PyTorch ReActNet-18 of the same arithmetic, to measure against.

Step 2 (binary activations and weights), without batch norm or with it, with the
reference's training step: Adam behind adaptive gradient clipping. Parameters have the
names of the published checkpoints, so that `verify` can compare it with ours.

Signs come in two formulations of the same numbers: as autograd functions of their own,
which is how one writes them today, and as ReActNet and its descendants publish them, a
forward sign and a polynomial whose gradient autograd finds, operator by operator.
"""

import torch
from torch import nn
from torch.nn import functional as F


class _Sign(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return torch.where(x >= 0, 1.0, -1.0).to(x.dtype)

    @staticmethod
    def backward(ctx, dy):
        (x,) = ctx.saved_tensors
        return dy * (2 - 2 * x.abs()).clamp(min=0)


class _ScaledSign(torch.autograd.Function):
    @staticmethod
    def forward(ctx, w):
        ctx.save_for_backward(w)
        return w.abs().mean((1, 2, 3), keepdim=True) * torch.where(w >= 0, 1.0, -1.0)

    @staticmethod
    def backward(ctx, dy):
        (w,) = ctx.saved_tensors
        return dy * (w.abs() <= 1)


def _published_sign(x):
    """Larger than 1 in size: no gradient; else that of a parabola on either side."""
    left, negative, inside = ((x < t).to(x.dtype) for t in (-1, 0, 1))
    y = -left + (x * x + 2 * x) * (1 - left)
    y = y * negative + (-x * x + 2 * x) * (1 - negative)
    y = y * inside + (1 - inside)
    return torch.where(x >= 0, 1.0, -1.0).to(x.dtype).detach() - y.detach() + y


def _published_scaled_sign(w):
    magnitude = w.abs().mean((1, 2, 3), keepdim=True).detach()
    signs = magnitude * torch.where(w >= 0, 1.0, -1.0).to(w.dtype)
    clipped = w.clamp(-1, 1)
    return signs.detach() - clipped.detach() + clipped


SIGNS = {
    "functions": (_Sign.apply, _ScaledSign.apply),
    "published": (_published_sign, _published_scaled_sign),
}


class Conv(nn.Module):
    def __init__(self, inputs, outputs, size, stride=1, *, free, binary, signs):
        super().__init__()
        self.scaled_sign = SIGNS[signs][1]
        self.weight = nn.Parameter(1e-3 * torch.rand(outputs, inputs, size, size))
        if free:
            self.gain = nn.Parameter(torch.ones(outputs, 1, 1, 1))
        self.free, self.binary = free, binary
        self.stride, self.padding = stride, size // 2

    def forward(self, x):
        w = self.weight
        if self.free:
            std, mean = torch.std_mean(w, (1, 2, 3), keepdim=True, correction=0)
            w = (w - mean) / (std + 1e-5) * w[0].numel() ** -0.5
        if self.binary:
            w = self.scaled_sign(w)
        if self.free:
            w = self.gain * w
        return F.conv2d(x, w, stride=self.stride, padding=self.padding)


class Bias(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(1, channels, 1, 1))

    def forward(self, x):
        return x + self.bias


class Unit(nn.Module):
    def __init__(self, inputs, outputs, beta, *, free, alpha, signs):
        super().__init__()
        stride = 2 if inputs != outputs else 1
        self.alpha, self.beta = (alpha, beta) if free else (1.0, 1.0)
        self.move0 = Bias(inputs)
        kwargs = {"free": free, "binary": True, "signs": signs}
        self.sign = SIGNS[signs][0]
        self.binary_conv = Conv(inputs, outputs, 3, stride, **kwargs)
        self.bn1 = nn.Identity() if free else nn.BatchNorm2d(outputs)
        self.downsample = None
        if stride > 1:
            norms = [] if free else [nn.BatchNorm2d(outputs)]
            self.downsample = nn.Sequential(
                nn.AvgPool2d(2), Conv(inputs, outputs, 1, **kwargs), *norms
            )
        self.move1, self.move2 = Bias(outputs), Bias(outputs)
        self.prelu = nn.PReLU(outputs)

    def forward(self, x):
        u = self.beta * x
        f = self.bn1(self.binary_conv(self.sign(self.move0(u))))
        r = x if self.downsample is None else self.downsample(u)
        return self.move2(self.prelu(self.move1(self.alpha * f + r)))


class ReActNet18(nn.Module):
    def __init__(self, norm="free", width=64, classes=10, alpha=0.2, signs="functions"):
        super().__init__()
        free = norm == "free"
        self.conv1 = Conv(3, width, 3, free=free, binary=False, signs=signs)
        self.bn1 = nn.Identity() if free else nn.BatchNorm2d(width)
        channels, variance = width, 1.0
        for stage in range(4):
            units = []
            for unit in range(4):
                outputs = width * 2**stage
                beta, kwargs = variance**-0.5, {"alpha": alpha, "signs": signs}
                units.append(Unit(channels, outputs, beta, free=free, **kwargs))
                if channels != outputs:
                    variance = 1.0
                elif unit:
                    variance += alpha**2
                channels = outputs
            setattr(self, f"layer{stage + 1}", nn.Sequential(*units))
        self.fc = nn.Linear(channels, classes)

    def forward(self, x):
        x = self.bn1(self.conv1(x))
        for stage in range(4):
            x = getattr(self, f"layer{stage + 1}")(x)
        return self.fc(x.mean((2, 3)))


def unit_norm(x, axes):
    return x.square().sum(axes, keepdim=True).sqrt()


def clip(parameters, factor=0.02, eps=1e-3):
    """Adaptive gradient clipping, as the reference does it."""
    for p in parameters:
        axes = tuple(range(1, p.ndim)) or (0,)
        limit = unit_norm(p, axes).clamp(min=eps) * factor
        norm = unit_norm(p.grad, axes)
        clipped = p.grad * (limit / norm.clamp(min=1e-6))
        p.grad.copy_(torch.where(norm > limit, clipped, p.grad))


def train_step(norm, width, batch, size=32, signs="functions"):
    """Return a function that does one training step."""
    torch.set_num_threads(2)
    model = ReActNet18(norm, width, signs=signs)
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    clipped = [p for n, p in model.named_parameters() if not n.startswith("fc.")]
    x, y = torch.randn(batch, 3, size, size), torch.randint(10, (batch,))

    def step():
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        if norm == "free":
            with torch.no_grad():
                clip(clipped)
        optimizer.step()

    return step


def verify(path, norm, signs="functions"):
    """Largest deviation from logits in an .npz of a state dict, images and logits."""
    import numpy as np

    with np.load(path, allow_pickle=False) as file:
        arrays = dict(file)
    images, logits = arrays.pop("images"), arrays.pop("logits")
    model = ReActNet18(norm, signs=signs).double().eval()
    state = {key: torch.tensor(value) for key, value in arrays.items()}
    model.load_state_dict(state)
    with torch.no_grad():
        result = model(torch.tensor(images)).numpy()
    return float(np.abs(result - logits).max())


if __name__ == "__main__":
    import sys

    print(verify(*sys.argv[1:]))
