"""The science of training what a search found; nothing is loaded before it is imported by name.

``spec`` says what a training is, ``majority`` holds majority kernels for any module, ``methods`` the training methods,
``data``, ``models``, ``loop`` and ``export`` what a training consists of, ``study`` many of them. ``engine`` runs one.
"""
