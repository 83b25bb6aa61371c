"""What `preprocess_input` and `decode_predictions` refuse, and say about it."""

import numpy as np
import PIL.Image
import pytest
import tensorflow as tf

from larq_nobn import UserError, zoo

PIXELS = np.random.default_rng(0).integers(0, 256, (2, 4, 4, 3)).astype(np.uint8)


@pytest.mark.parametrize("dtype", ["uint8", "int64", "float16", "float32", "float64"])
@pytest.mark.parametrize("kind", ["array", "tensor", "graph", "keras"])
def test_pixels_of_every_kind(kind, dtype):
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    expected = (PIXELS / 255 - mean) / std
    images = PIXELS.astype(dtype)
    if kind == "array":
        actual = zoo.preprocess_input(images)
        assert isinstance(actual, np.ndarray)
    elif kind == "tensor":
        actual = zoo.preprocess_input(tf.constant(images))
    elif kind == "graph":
        dataset = tf.data.Dataset.from_tensors(images)
        (actual,) = dataset.map(zoo.preprocess_input)
    else:
        image = tf.keras.Input(images.shape[1:], dtype=dtype)
        model = tf.keras.Model(image, zoo.preprocess_input(image))
        actual = model(images)
    assert actual.dtype == np.float32
    np.testing.assert_allclose(actual, expected, atol=1e-5)


DARK = np.zeros((2, 4, 4, 3), np.uint8)
DARK[0] = 1


@pytest.mark.parametrize(
    "images",
    [
        DARK,
        np.zeros((2, 4, 4, 3), np.float32),
        np.full((2, 4, 4, 3), 255.0) + 1e-5,
        np.zeros((0, 4, 4, 3), np.float32),
    ],
    ids=["dark integers", "all zero", "rounded", "none"],
)
def test_pixels_at_the_edges(images):
    assert np.all(np.isfinite(zoo.preprocess_input(images)))


@pytest.mark.parametrize("convert", [np.asarray, tf.constant])
@pytest.mark.parametrize(
    ("images", "message"),
    [
        (PIXELS / np.float32(255), r"values from 0.*to 1.*Fix: preprocess_input\(255"),
        (PIXELS / np.float32(510), r"to 0\.5.*Fix: preprocess_input\(255"),
        (PIXELS / np.float32(127.5) - 1, r"values from -1 .*not normalized yet"),
        (PIXELS.astype(int) - 1, r"values from -1 .*not normalized yet"),
        (256 * PIXELS.astype(np.uint16), r"to 65280.*not normalized yet"),
        (np.full((1, 4, 4, 3), np.nan), r"values from nan .*not normalized yet"),
    ],
    ids=["0 to 1", "0 to 0.5", "-1 to 1", "negative integers", "16 bits", "NaN"],
)
def test_values_that_are_no_pixels(images, message, convert):
    with pytest.raises(UserError, match=rf"must be from 0 to 255.*{message}"):
        zoo.preprocess_input(convert(images))


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (PIXELS.tolist(), r"Received: list\. Fix: np\.asarray\(images\)"),
        (PIL.Image.fromarray(PIXELS[0]), r"Received: Image\. Fix: np\.asarray\(images"),
        (None, "Received: NoneType"),
        (tf.data.Dataset.from_tensors(PIXELS), r"Fix: .*images\.map\(preprocess_input"),
    ],
    ids=["list", "picture", "None", "dataset"],
)
def test_neither_array_nor_tensor(images, message):
    with pytest.raises(
        TypeError, match=f"must be a NumPy array or a tensor.*{message}"
    ):
        zoo.preprocess_input(images)


@pytest.mark.parametrize(
    ("shape", "dataset", "fix"),
    [
        ((4, 4), "imagenet", r"images\[\.\.\., np\.newaxis\]"),
        ((2, 4, 4, 1), "imagenet", "grayscale_to_rgb"),
        ((2, 4, 4, 3), "digits", "rgb_to_grayscale"),
        ((2, 4, 4, 4), "imagenet", r"without transparency, images\[\.\.\., :3\]"),
        ((2, 3, 4, 4), "imagenet", "put channels last"),
        ((3, 4, 4), "imagenet", "put channels last"),
        ((), "imagenet", "add the axis of channels"),
    ],
)
def test_other_channels(shape, dataset, fix):
    message = rf"Images of {dataset} have . channels on the last axis.*Fix: .*{fix}"
    for images in (np.ones(shape, np.uint8), tf.ones(shape, tf.uint8)):
        with pytest.raises(UserError, match=message):
            zoo.preprocess_input(images, dataset)


def test_images_of_unknown_rank():
    function = tf.function(zoo.preprocess_input, autograph=False)
    with pytest.raises(UserError, match=r"shape <unknown>.*Fix: .*tf\.ensure_shape"):
        function.get_concrete_function(tf.TensorSpec(None, tf.uint8))


@pytest.mark.parametrize("top", [0, -1, 1.5, None, True])
def test_top_is_a_positive_integer(top):
    with pytest.raises(UserError, match="`top` must be a positive integer"):
        zoo.decode_predictions(np.eye(1000)[:2], top)


def test_predictions_are_numbers():
    predictions = np.eye(1000)[:3]
    predictions[1, 5] = np.nan
    with pytest.raises(UserError, match=r"Received: NaN for 1 images.*Fix: look for"):
        zoo.decode_predictions(predictions)
