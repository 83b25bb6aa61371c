"""A pytest plugin: our QuantConv2D in the place of Larq's, for Larq's own tests."""

import larq_nobn  # isort: skip  (first: it selects Keras 2)
import larq as lq

lq.layers.QuantConv2D = larq_nobn.layers.QuantConv2D
