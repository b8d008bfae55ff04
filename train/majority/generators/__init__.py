"""The random numbers of a draw: which generator makes them, and how each follows from the key alone.

==================  ==================================================================================================
``uniforms``        the key; independent numbers on a processor, sorted chunk by chunk
``philox``          independent numbers on a GPU, inside the ``triton_kernels`` that mix and spread
``table``           numbers read from tables: an option that is not independent, and its limits
==================  ==================================================================================================
"""
