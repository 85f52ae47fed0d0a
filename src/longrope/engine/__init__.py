"""Passes over long texts: losses with and without gradients, answers, decoding, and all that makes them fit and fast.

* ``passes``: losses and answers of whole windows; what a pass will take and why.
* ``decoding``: reading a prompt into a cache, and writing token by token.
* ``context``: the one ``ForwardContext`` of a running pass, and the attention function that transformers calls.
* ``tiling``, ``recomputing``, ``loss``, ``memory``: layers, norms, MLPs and the head in parts that fit.
* ``kv_cache``: keys and values of layers.
* ``attention``, ``kernels``, ``hopper``: exact attention by the fastest kernel of the device.
* ``compiling``: torch.compile where no gradients are taken.
"""
