"""One row of `speed.py`: a network of the zoo, or a floor under it."""

import json
import sys
import time

from larq_nobn import zoo  # isort: skip  (first: it selects Keras 2)
import larq as lq
import numpy as np
import tensorflow as tf
from speed_protocol import serve

import larq_nobn
from larq_nobn import optimizers

# Earlier versions of the library have the fast formulas there.
ops = getattr(larq_nobn, "ops", larq_nobn.math)


def build(settings, norm):
    tf.keras.mixed_precision.set_global_policy(settings["precision"])
    return zoo.create_model(
        settings["network"],
        norm=norm,
        stem=settings["stem"],
        width=settings["width"],
        num_classes=10 if settings["stem"] == "cifar" else 1000,
    )


def data(model, batch):
    rng = np.random.default_rng(0)
    images = rng.standard_normal((batch, *model.input_shape[1:])).astype("float32")
    classes = model.output_shape[-1]
    return tf.constant(images), tf.one_hot(rng.integers(0, classes, batch), classes)


def model_step(settings):
    """The step that `model.fit` or `model.predict` does."""
    model = build(settings, settings["norm"])
    images, labels = data(model, settings["batch"])
    jit = settings.get("jit", False)
    if settings["task"] == "train":
        # Earlier versions of the library have none.
        adam = getattr(optimizers, "FusedAdam", tf.keras.optimizers.Adam)
        optimizer = adam(1e-3)
        if settings["norm"] == "free":
            classifier = model.get_layer("classifier")
            optimizer = optimizers.AdaptiveGradientClipping(
                optimizer, exclude=[classifier]
            )
        model.compile(optimizer, "categorical_crossentropy", jit_compile=jit)
        batches = tf.data.Dataset.from_tensors((images, labels)).repeat()
        function = model.make_train_function()
    else:
        model.compile(jit_compile=jit)
        batches = tf.data.Dataset.from_tensors(images).repeat()
        function = model.make_predict_function()
    iterator = iter(batches)
    return lambda: function(iterator)


def geometries(settings):
    """Input shape, kernel shape and stride of each convolution."""
    model = build(settings, "none")
    for layer in model.layers:
        if isinstance(layer, tf.keras.layers.Conv2D):
            shape = (settings["batch"], *layer.input_shape[1:])
            yield shape, tuple(layer.kernel.shape), layer.strides[0]


def convolutions_step(settings):
    """Every convolution, and in training its two gradients, and nothing else."""
    dtype = tf.float32 if settings["precision"] == "float32" else tf.bfloat16
    rng = np.random.default_rng(0)

    def noise(shape):
        return tf.constant(rng.standard_normal(shape, np.float32), dtype)

    calls = []
    for i, (shape, kernel, stride) in enumerate(geometries(settings)):
        # As the layer pads: "same" in TensorFlow's kernels, by itself with strides.
        if stride > 1 and kernel[0] > 1:
            pad = kernel[0] // 2
            shape = (shape[0], shape[1] + 2 * pad, shape[2] + 2 * pad, shape[3])
            padding = "VALID"
        else:
            padding = "SAME"
        calls.append((i, noise(shape), noise(kernel), stride, padding))
    tf.keras.backend.clear_session()
    train = settings["task"] == "train"

    @tf.function
    def step(tensors):
        results = []
        for (i, _, _, stride, padding), (x, w) in zip(calls, tensors, strict=True):
            with tf.GradientTape() as tape:
                tape.watch([x, w])
                y = tf.nn.conv2d(x, w, stride, padding)
            wanted = ([w] if i == 0 else [x, w]) if train else []
            gradients = tape.gradient(y, wanted, y) if train else [y]
            # A value of each: none is left out, none is kept.
            results += [tf.reshape(g, [-1])[0] for g in gradients]
        return results

    tensors = [(x, w) for _, x, w, *_ in calls]
    return lambda: step(tensors)


def matmul_step(settings):
    """As many multiply-adds as the convolutions', in whole products of 2048x2048."""
    macs = sum(
        np.prod(shape[:1] + kernel)
        * -(-shape[1] // stride)
        * -(-shape[2] // stride)
        * (1 if settings["task"] == "infer" else 2 if i == 0 else 3)
        for i, (shape, kernel, stride) in enumerate(geometries(settings))
    )
    size = 2048
    dtype = tf.float32 if settings["precision"] == "float32" else tf.bfloat16
    # Scaled so that products of products keep their size.
    a = tf.cast(tf.random.normal((size, size)) * size**-0.5, dtype)
    count = tf.constant(max(round(macs / size**3), 1))

    @tf.function
    def multiply(count):
        product = a
        for _ in tf.range(count):
            product = tf.matmul(a, product)
        return product[0, 0]

    return lambda: multiply(count).numpy()


def weights_step(settings):
    """What a train step does to the weights besides their update, and nothing else.

    Kernels are standardized, binarized and scaled, which has gradients, and all
    gradients are clipped; without the method kernels are binarized.
    """
    model = build(settings, settings["norm"])
    dtype = tf.as_dtype(model.compute_dtype)
    convolutions = [x for x in model.layers if isinstance(x, lq.layers.QuantConv2D)]
    small = [w for w in model.trainable_variables if w.shape.rank == 1]
    dkernels = [tf.cast(tf.random.normal(x.kernel.shape), dtype) for x in convolutions]
    dsmall = [tf.random.normal(w.shape) for w in small]
    is_free = settings["norm"] == "free"
    if is_free:
        optimizer = optimizers.AdaptiveGradientClipping(tf.keras.optimizers.SGD())
        optimizer.build(model.trainable_variables)

    def compute(layer, kernel, gain=None):
        quantize = layer.kernel_quantizer
        kernel = tf.convert_to_tensor(kernel)
        if gain is None:
            return tf.cast(quantize(kernel) if quantize else kernel, dtype)
        gain, standardization = tf.convert_to_tensor(gain), (layer.gamma, layer.eps)
        if quantize:
            clip_value = quantize.clip_value
            return ops.binary_ws_kernel(
                kernel, gain, *standardization, clip_value, dtype
            )
        kernel = ops.scaled_weight_standardization(kernel, *standardization)
        return ops.scale_channels(kernel, gain, dtype)

    @tf.function
    def step():
        results, gradients, clipped = [], list(dsmall), list(small)
        for layer, dkernel in zip(convolutions, dkernels, strict=True):
            weights = [layer.kernel, *([layer.gain] if hasattr(layer, "gain") else [])]
            with tf.GradientTape() as tape:
                kernel = compute(layer, *weights)
            results.append(kernel)
            gradients += tape.gradient(kernel, weights, dkernel)
            clipped += weights
        if is_free:
            gradients = optimizer.transform_all(gradients, clipped)
        return [tf.reshape(x, [-1])[0] for x in results + gradients]

    return step


STEPS = {
    "model": model_step,
    "convolutions": convolutions_step,
    "matmul": matmul_step,
    "weights": weights_step,
}


if __name__ == "__main__":
    settings = json.loads(sys.argv[1])
    start = time.perf_counter()
    step = STEPS[settings["kind"]](settings)
    step()
    serve(time.perf_counter() - start, step)
