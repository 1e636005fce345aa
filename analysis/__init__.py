"""What prompts and biases do inside CLIP: the paper's figures, and experiments that it did not make.

`python -m analysis --help` lists the commands; docs/analysis.md shows what they found. In a notebook each figure is a
module with `compute(comparison)`, `plot`, `describe` and `headlines`:

    from promptbias.analysis import entropy
    from promptbias.analysis.comparison import Comparison

    found = entropy.compute(Comparison("output/digits/IVLP/tiny_deep_16shots/seed1"))
    entropy.plot(found)["entropy"]
"""
