"""The one part that is compiled; ``pyproject.toml`` has everything else."""

from setuptools import Extension, setup

setup(
    ext_modules=[
        Extension(
            "collegium.train.majority.native._kernels",
            ["train/majority/native/kernels.c"],
            depends=["train/majority/native/elements.h"],
            extra_compile_args=["-std=c11", "-O3", "-fno-math-errno", "-ffp-contract=off"],
            optional=True,  # without a C compiler operators do the same, in more time
        )
    ]
)
