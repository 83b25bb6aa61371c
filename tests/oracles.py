"""The formulas once more, in plain NumPy, and numeric derivatives."""

from collections.abc import Callable

import numpy as np


def standardize(w, gamma=1.0, eps=1e-5, axis=(0, 1, 2)) -> np.ndarray:
    """Scaled weight standardization."""
    fan_in = np.prod([w.shape[i] for i in axis])
    mean, std = w.mean(axis, keepdims=True), w.std(axis, keepdims=True)
    return gamma * fan_in**-0.5 * (w - mean) / (std + eps)


def sign(x) -> np.ndarray:
    """Larq's: sign(0) = 1."""
    return np.where(x >= 0, 1.0, -1.0)


def scaled_sign(w) -> np.ndarray:
    return np.abs(w).mean((0, 1, 2), keepdims=True) * sign(w)


def approx_sign_grad(x) -> np.ndarray:
    return np.where(np.abs(x) <= 1, 2 - 2 * np.abs(x), 0.0)


def agc(g, p, clip_factor, eps=1e-3, axis=None) -> np.ndarray:
    """Adaptive gradient clipping in Keras's layout; `axis` are those of one unit."""
    if axis is None and g.ndim > 1:
        axis = tuple(range(g.ndim - 1))
    norm = np.sqrt((g**2).sum(axis, keepdims=True))
    limit = clip_factor * np.maximum(np.sqrt((p**2).sum(axis, keepdims=True)), eps)
    return np.where(norm >= limit, g * limit / np.maximum(norm, 1e-6), g)


def conv2d(x, kernel, strides=(1, 1), padding=(0, 0), pad_value=0.0, dilation=(1, 1)):
    """Convolution of NHWC with HWIO, both sides of an axis padded alike (PyTorch's)."""
    pad = [(0, 0), *((p, p) for p in padding), (0, 0)]
    x = np.pad(x, pad, constant_values=pad_value)
    height, width = (
        (x.shape[i + 1] - (kernel.shape[i] - 1) * dilation[i] - 1) // strides[i] + 1
        for i in range(2)
    )
    y = np.zeros((len(x), height, width, kernel.shape[3]))
    for i in range(kernel.shape[0]):
        for j in range(kernel.shape[1]):
            rows = slice(i * dilation[0], None, strides[0])
            columns = slice(j * dilation[1], None, strides[1])
            y += x[:, rows, columns][:, :height, :width] @ kernel[i, j]
    return y


def numeric_vjp(f: Callable, x: np.ndarray, dy: np.ndarray, h=1e-6) -> np.ndarray:
    """Gradient of `sum(f(x) * dy)`, by central differences."""
    gradient = np.zeros(x.shape)
    for index in np.ndindex(x.shape):
        step = np.zeros(x.shape)
        step[index] = h
        gradient[index] = np.sum((f(x + step) - f(x - step)) * dy) / (2 * h)
    return gradient
