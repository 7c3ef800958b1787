"""Raw files in, tensors out."""
