"""What the methods share: CLIP's two towers, the trainer, and the files of a run."""
