from setuptools import setup

setup(
    name="promptbias",
    version="0.1.0",
    description="Tune and understand CLIP with deep prompts and biases (arXiv 2312.11570), for the CoOp family",
    license="MIT",
    python_requires=">=3.10",
    # A checkout is the unit, as in all of this family: only the hook is installed, and it finds the rest beside itself.
    py_modules=["promptbias"],
    install_requires=[
        "torch>=1.13",
        "torchvision>=0.14",
        "clip-anytorch",
        "setuptools<81",  # clip-anytorch imports pkg_resources
        "yacs",
        "tabulate",
        "matplotlib",
        "tqdm",
        "numpy",
        "scipy",
        "scikit-learn",
        "safetensors",
        "tensorboard",
        "gdown",
    ],
    extras_require={"test": ["pytest", "hypothesis"]},
)
