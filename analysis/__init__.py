"""What prompts and biases do inside CLIP: the paper's figures, and experiments that it did not make.

`python -m analysis --help` lists the commands; docs/analysis.md shows what they found.
"""
