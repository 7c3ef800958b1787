"""The handwritten digits of scikit-learn: built in, need no files."""

import numpy as np

from convexinit_paper.data.sources import ImageArrays, ImageSource


def load_digits() -> ImageArrays:
    """1,797 digits of 8 x 8 pixels with values 0..16.

    They come without a test set. Ours is always the same: 360 samples (20%), drawn at random
    with seed 0 and stratified by class, so that 1,437 remain for training.
    """
    from sklearn import datasets
    from sklearn.model_selection import train_test_split

    digits = datasets.load_digits()
    images = digits.images.astype(np.uint8)[:, None]
    labels = digits.target.astype(np.int64)
    train, test = train_test_split(
        range(len(labels)), test_size=360, stratify=labels, random_state=0
    )
    return ImageArrays(images[train], labels[train], images[test], labels[test])


DATA_SETS = {"digits": ImageSource("digits", 10, load=lambda data_dir: load_digits(), white=16)}
