"""Running an exported file on this machine."""

import warnings

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
        self.image_shape = file.inputs[0].shape[1:]
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

    def run(self, image: np.ndarray) -> list[np.ndarray]:
        """Run one image.

        Args:
            image: float32 array of shape `(1, height, width, channels)`.

        Returns:
            The outputs of the file.
        """
        return self._run([image])

    def _run_tflite(self, inputs: list[np.ndarray]) -> list[np.ndarray]:
        interpreter = self._interpreter
        interpreter.set_tensor(interpreter.get_input_details()[0]["index"], inputs[0])
        interpreter.invoke()
        details = interpreter.get_output_details()
        return [interpreter.get_tensor(output["index"]) for output in details]

    def predict(self, images: np.ndarray) -> np.ndarray:
        """Run images one by one.

        Args:
            images: Preprocessed images of shape `(count, height, width, channels)`.

        Returns:
            The first output, of shape `(count, ...)`.

        Raises:
            UserError: If the images do not have the file's size.
        """
        images = check_images(images, self.image_shape)
        outputs = [self.run(images[i : i + 1])[0] for i in range(len(images))]
        return np.concatenate(outputs)


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
    if images.ndim != 4 or images.shape[1:] != tuple(shape) or not len(images):
        raise UserError(
            f"Images must have the shape (count, {', '.join(map(str, shape))}) of the "
            "model's input",
            got=images.shape,
            fix="resize or crop the images, or export the model with another "
            "input_shape",
        )
    return np.ascontiguousarray(images, np.float32)
