"""What interpretation needs below its figures: activation cache, token layout, decomposition, relevancy, statistics."""
