"""What TensorFlow has no public name for and is used here: after an upgrade, look here.

The schema of TFLite files as Python classes, and the error of its converter.
"""

from tensorflow.lite.python import schema_py_generated as schema
from tensorflow.lite.python.convert_phase import ConverterError

__all__ = ["ConverterError", "schema"]
