"""Running an exported file on this machine."""

import warnings
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from larq_nobn._errors import UserError
from larq_nobn._lce import import_interpreter
from larq_nobn.deploy.flatbuffer import Flatbuffer


class Runner:
    """Runs a TFLite file, by Larq Compute Engine's interpreter where it needs that.

    Larq Compute Engine is optimized for 64-bit Arm. On other machines it computes the
    same, slowly.

    Args:
        content: The file's bytes.
        threads: Number of threads.
        indirect: Use Larq Compute Engine's indirect binary convolution: the same whole
            numbers, on x86 several times faster than its default.

    Raises:
        UserError: If it is no TFLite file that this machine can run, or Larq Compute
            Engine is missing.

    Example:
        >>> logits = Runner(pathlib.Path("model.tflite").read_bytes()).predict(images)
    """

    def __init__(self, content: bytes, threads: int = 1, indirect: bool = False):
        file = Flatbuffer(content)
        self.input_shapes = [x.shape[1:] for x in file.inputs]
        self.image_shape = self.input_shapes[0]
        is_binary = any(op.kind.startswith("Lce") for op in file.operators())
        try:
            if is_binary:
                self._start_compute_engine(content, threads, indirect)
            else:
                self._start_tflite(content, threads)
        except (RuntimeError, ValueError) as error:
            raise UserError(
                "The file must hold operators that this machine's interpreter knows",
                got=error,
                fix="convert the model again, with the installed version of Larq "
                "Compute Engine",
            ) from error

    def _start_compute_engine(self, content, threads, indirect) -> None:
        self._interpreter = import_interpreter()(
            content, num_threads=threads, use_indirect_bgemm=indirect
        )
        self._run = self._interpreter.interpreter.predict

    def _start_tflite(self, content, threads) -> None:
        with warnings.catch_warnings():
            # TensorFlow 2.18 warns that another package will replace it.
            warnings.filterwarnings("ignore", r"[\s\S]*LiteRT", UserWarning)
            self._interpreter = tf.lite.Interpreter(
                model_content=content, num_threads=threads
            )
        self._interpreter.allocate_tensors()
        self._run = self._run_tflite

    def run(self, image: np.ndarray | Sequence[np.ndarray]) -> list[np.ndarray]:
        """Run one image.

        Args:
            image: float32 array of shape `(1, height, width, channels)`; a list of
                arrays, if the file has several inputs. It is rounded, if the file
                takes int8.

        Returns:
            The outputs of the file; as real numbers, if they are int8.
        """
        outputs = self._run(image if isinstance(image, list | tuple) else [image])
        return outputs if isinstance(outputs, list) else [outputs]

    def _run_tflite(self, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        interpreter = self._interpreter
        for details, x in zip(interpreter.get_input_details(), inputs, strict=True):
            interpreter.set_tensor(details["index"], quantized(x, details))
        interpreter.invoke()
        return [
            widened(interpreter.get_tensor(details["index"]), details)
            for details in interpreter.get_output_details()
        ]

    def predict(self, images: np.ndarray | Sequence[np.ndarray]) -> np.ndarray:
        """Run images one by one.

        Args:
            images: Preprocessed images of shape `(count, height, width, channels)`; a
                list of arrays, if the file has several inputs.

        Returns:
            The first output, of shape `(count, ...)`.

        Raises:
            UserError: If the images do not have the file's size.
        """
        return self.predict_all(images)[0]

    def predict_all(
        self, images: np.ndarray | Sequence[np.ndarray]
    ) -> list[np.ndarray]:
        """Run images one by one, for all outputs.

        Args:
            images: As in `predict`.

        Returns:
            One array of shape `(count, ...)` per output.

        Raises:
            UserError: If the images do not have the file's size.
        """
        arrays = check_inputs(images, self.input_shapes)
        runs = [self.run([x[i : i + 1] for x in arrays]) for i in range(len(arrays[0]))]
        return [np.concatenate(parts) for parts in zip(*runs, strict=True)]


def quantized(x: np.ndarray, details: dict) -> np.ndarray:
    """Return what a file takes for real numbers: themselves, or int8.

    Args:
        x: The numbers.
        details: As TFLite's interpreter describes the input.
    """
    scale, zero = details["quantization"]
    if not scale:
        return x
    limits = np.iinfo(details["dtype"])
    steps = np.rint(x / np.float32(scale)) + zero
    return np.clip(steps, limits.min, limits.max).astype(details["dtype"])


def widened(x: np.ndarray, details: dict) -> np.ndarray:
    """Return the real numbers that a file's output stands for.

    Args:
        x: The output.
        details: As TFLite's interpreter describes it.
    """
    scale, zero = details["quantization"]
    return np.float32(scale) * (x.astype(np.float32) - zero) if scale else x


def check_inputs(
    images: np.ndarray | Sequence[np.ndarray], shapes: Sequence[tuple[int, ...]]
) -> list[np.ndarray]:
    """Check that what is to be run fits a model's inputs.

    Args:
        images: An array, or one per input.
        shapes: The inputs' shapes without the batch axis.

    Returns:
        One array in float32 per input.

    Raises:
        UserError: If they do not fit.
    """
    is_list = isinstance(images, list | tuple) and len(shapes) > 1
    arrays = list(images) if is_list else [images]
    if len(arrays) != len(shapes) or len({len(np.asarray(x)) for x in arrays}) > 1:
        raise UserError(
            f"There must be one array per input, {len(shapes)} of equal length",
            got=", ".join(str(np.shape(x)) for x in arrays),
            fix="a list of arrays, in the order of the model's inputs",
        )
    return [check_images(x, shape) for x, shape in zip(arrays, shapes, strict=True)]


def check_images(images: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Check that images fit a model.

    Args:
        images: Array that should be of shape `(count, height, width, channels)`.
        shape: `(height, width, channels)` of the model's input.

    Returns:
        The images in float32.

    Raises:
        UserError: If they do not.
    """
    images = np.asarray(images)
    if images.shape[1:] != tuple(shape) or images.ndim < 2 or not len(images):
        raise UserError(
            f"Images must have the shape (count, {', '.join(map(str, shape))}) of the "
            "model's input",
            got=images.shape,
            fix="resize or crop the images, or export the model with another "
            "input_shape",
        )
    return np.ascontiguousarray(images, np.float32)
