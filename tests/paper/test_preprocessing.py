"""Normalisation and whitening, against NumPy and scikit-learn in double precision."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.decomposition import PCA

from convexinit_paper.data.images import ImageData, load_images
from convexinit_paper.data.preprocessing import normalise, preprocess
from convexinit_paper.data.whitening import (
    EPSILON,
    fit_whitening,
    pixel_moments,
    whitening_bytes,
    whitening_matrix,
)
from convexinit_paper.training import memory


def correlated_pixels(count: int, features: int, seed: int = 0) -> torch.Tensor:
    """Smooth random rows, so that neighbouring features are correlated."""
    generator = torch.Generator().manual_seed(seed)
    walk = torch.randn(count, features, generator=generator).cumsum(1) * 12
    return (walk + 128).clamp(0, 255).to(torch.uint8)


def covariance_of(rows: torch.Tensor) -> torch.Tensor:
    return torch.from_numpy(np.cov(rows.double().numpy(), rowvar=False, bias=True))


def test_images_too_large_to_whiten_are_named(monkeypatch):
    pixels, labels = correlated_pixels(8, 64).view(8, 1, 8, 8), torch.arange(8)
    data = ImageData(pixels, labels, pixels, labels, 8, "Pets")
    need = whitening_bytes(64)
    monkeypatch.setattr(memory, "available_bytes", lambda device: need - 1)
    for kind in ("pca", "zca"):
        with pytest.raises(ValueError, match=r"Pets: .* 64 pixel values .*preprocessing=normalise"):
            preprocess(data, kind)
    assert preprocess(data, "normalise").train_inputs.shape == (8, 64)
    for free in (need, None):
        monkeypatch.setattr(memory, "available_bytes", lambda device, free=free: free)
        assert preprocess(data, "zca").train_inputs.shape == (8, 64)


def test_images_too_large_for_inputs_are_named(monkeypatch):
    pixels, labels = correlated_pixels(8, 64).view(8, 1, 8, 8), torch.arange(8)
    data = ImageData(pixels, labels, pixels, labels, 8, "Pets")
    monkeypatch.setattr(memory, "available_bytes", lambda device: 4 * 2 * 8 * 64 - 1)
    with pytest.raises(ValueError, match=r"Pets: the inputs .*dataset\.size"):
        preprocess(data, "normalise")


# --- moments --------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2, 1023, 1024, 1025, 5000])
def test_moments_are_those_of_numpy(count):
    pixels = correlated_pixels(count, 30)
    mean, covariance = pixel_moments(pixels)
    np.testing.assert_allclose(mean, pixels.numpy().astype(np.float64).mean(0), rtol=1e-14)
    torch.testing.assert_close(covariance, covariance_of(pixels), rtol=1e-12, atol=1e-9)


def test_moments_are_exact_integers_divided_once():
    """Against Python's integers, for the pixels that make the largest sums."""
    pixels = torch.zeros(3000, 3, dtype=torch.uint8)
    pixels[::3, 1] = 255
    pixels[:, 2] = 255
    _, covariance = pixel_moments(pixels)
    assert covariance[1, 1].item() == (3000 * 1000 * 255**2 - (1000 * 255) ** 2) / 3000**2
    assert covariance[2].tolist() == covariance[0].tolist() == [0, 0, 0]


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 10_000), count=st.integers(2, 3000))
def test_moments_do_not_depend_on_the_order_of_rows(seed, count):
    pixels = correlated_pixels(count, 6, seed)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    for one, other in zip(pixel_moments(pixels), pixel_moments(pixels[order]), strict=True):
        assert torch.equal(one, other)


def test_moments_do_not_depend_on_threads():
    pixels = correlated_pixels(3000, 200)
    _, alone = pixel_moments(pixels)
    torch.set_num_threads(2)
    _, together = pixel_moments(pixels)
    assert torch.equal(alone, together)


# --- whitening ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["pca", "zca"])
def test_whitened_training_set_has_the_identity_as_covariance(kind):
    pixels = correlated_pixels(4000, 40)
    whitened = fit_whitening(pixels, kind, white=255).apply(pixels)
    assert whitened.dtype == torch.float32
    assert whitened.double().mean(0).abs().max() < 1e-6
    # An eigenvalue l becomes l / (l + epsilon); all of them are above epsilon here.
    smallest = np.linalg.eigvalsh(covariance_of(pixels) / 255**2).min()
    assert smallest > 20 * EPSILON
    error = (covariance_of(whitened) - torch.eye(40)).abs().max()
    assert 1e-6 < error < 1.01 * EPSILON / smallest


def test_pca_is_that_of_scikit_learn():
    pixels = correlated_pixels(4000, 40)
    test = correlated_pixels(50, 40, seed=1)
    scaled = pixels.double().numpy() / 255
    reference = PCA(whiten=True, svd_solver="full").fit(scaled)
    # scikit-learn divides by n - 1, and adds nothing to the eigenvalues.
    variance = reference.explained_variance_ * 3999 / 4000
    expected = (test.double().numpy() / 255 - reference.mean_) @ reference.components_.T
    expected /= np.sqrt(variance + EPSILON)
    actual = fit_whitening(pixels, "pca", white=255).apply(test).numpy()
    signs = np.sign((actual * expected).sum(0))
    np.testing.assert_allclose(actual, expected * signs, atol=1e-5)


def test_zca_is_the_inverse_square_root():
    """Against an iteration that uses no eigenvectors (Newton's method of Denman and Beavers)."""
    covariance = covariance_of(correlated_pixels(2000, 12)) / 255**2
    root, inverse = covariance + EPSILON * torch.eye(12), torch.eye(12, dtype=torch.float64)
    for _ in range(60):
        root, inverse = (root + inverse.inverse()) / 2, (inverse + root.inverse()) / 2
    matrix = whitening_matrix(covariance, "zca", EPSILON)
    torch.testing.assert_close(matrix, inverse, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(matrix, matrix.T, rtol=0, atol=1e-11)
    assert torch.linalg.eigvalsh(matrix).min() > 0


def test_pca_is_a_rotation_of_zca():
    covariance = covariance_of(correlated_pixels(2000, 25)) / 255**2
    pca, zca = (whitening_matrix(covariance, kind, EPSILON) for kind in ("pca", "zca"))
    rotation = torch.linalg.solve(zca, pca)
    torch.testing.assert_close(rotation @ rotation.T, torch.eye(25).double(), rtol=0, atol=1e-9)
    # Inner products of samples, and so everything that does not depend on axes, are the same.
    rows = torch.randn(10, 25, dtype=torch.float64)
    one, other = rows @ pca, rows @ zca
    torch.testing.assert_close(one @ one.T, other @ other.T, rtol=1e-9, atol=1e-9)


def test_components_of_pca_are_ordered_and_have_fixed_signs():
    covariance = covariance_of(correlated_pixels(2000, 25)) / 255**2
    matrix = whitening_matrix(covariance, "pca", EPSILON)
    variances = 1 / matrix.pow(2).sum(0) - EPSILON
    np.testing.assert_allclose(variances, np.linalg.eigvalsh(covariance)[::-1], rtol=1e-9)
    assert (matrix.gather(0, matrix.abs().argmax(0, keepdim=True)) > 0).all()


def test_zca_does_not_depend_on_the_order_of_features():
    pixels = correlated_pixels(1000, 16)
    order = torch.randperm(16, generator=torch.Generator().manual_seed(0))
    plain = fit_whitening(pixels, "zca", 255).apply(pixels)
    permuted = fit_whitening(pixels[:, order], "zca", 255).apply(pixels[:, order])
    torch.testing.assert_close(permuted, plain[:, order], rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", ["pca", "zca"])
def test_brightness_does_not_matter(kind):
    pixels = correlated_pixels(1000, 16).clamp(max=245)
    plain = fit_whitening(pixels, kind, 255).apply(pixels)
    brighter = fit_whitening(pixels + 10, kind, 255).apply(pixels + 10)
    torch.testing.assert_close(brighter, plain, rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", ["pca", "zca"])
def test_pixels_count_in_units_of_white(kind):
    """Digits of 0 to 16 are whitened as the same digits of 0 to 240 would be."""
    pixels = correlated_pixels(1000, 16) // 16
    small = fit_whitening(pixels, kind, 16).apply(pixels)
    large = fit_whitening(pixels * 15, kind, 240).apply(pixels * 15)
    torch.testing.assert_close(small, large, rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", ["pca", "zca"])
def test_constant_features_do_not_blow_up(kind):
    pixels = correlated_pixels(500, 20)
    pixels[:, ::4] = 0
    pixels[:, 3] = pixels[:, 2]  # and a direction without variance that is no feature
    whitening = fit_whitening(pixels, kind, 255)
    train = whitening.apply(pixels)
    assert torch.isfinite(train).all()
    assert train.abs().max() < 10
    # In the test set such a feature is scaled by 1 / sqrt(epsilon), and by no more than that.
    test = pixels[:1].clone()
    test[0, 4] = 1
    change = (whitening.apply(test) - train[:1]).norm()
    assert change.item() == pytest.approx(1 / 255 / EPSILON**0.5, rel=1e-4)


def test_fewer_samples_than_features():
    pixels = correlated_pixels(10, 50)
    for kind in ("pca", "zca"):
        whitened = fit_whitening(pixels, kind, 255).apply(pixels)
        eigenvalues = np.linalg.eigvalsh(covariance_of(whitened))
        assert (eigenvalues[:-9] < 1e-6).all()
        np.testing.assert_allclose(eigenvalues[-9:], 1, atol=1e-2)


def test_arguments_out_of_range():
    covariance = torch.eye(3, dtype=torch.float64)
    with pytest.raises(ValueError, match="one of pca, zca; got 'cholesky'"):
        whitening_matrix(covariance, "cholesky", EPSILON)
    for epsilon in (0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match="epsilon must be above 0"):
            whitening_matrix(covariance, "pca", epsilon)


# --- images ---------------------------------------------------------------------------------------


def random_images(channels: int = 3) -> ImageData:
    pixels = correlated_pixels(700, channels * 16).view(-1, channels, 4, 4)
    labels = torch.arange(700) % 3
    return ImageData(pixels[:600], labels[:600], pixels[600:], labels[600:], 3, "Noise")


@pytest.mark.parametrize("how", ["pca", "zca"])
def test_test_images_are_whitened_with_constants_of_the_training_set(how):
    images = random_images()
    data = preprocess(images, how)
    assert data.train_inputs.shape == (600, 48)
    assert data.test_inputs.shape == (100, 48)
    whitening = fit_whitening(images.train_inputs.flatten(1), how, 255)
    assert torch.equal(data.test_inputs, whitening.apply(images.test_inputs.flatten(1)))
    assert data.test_inputs.mean(0).abs().max() > 1e-3  # not its own constants
    assert torch.equal(data.test_labels, images.test_labels)
    assert (data.num_classes, data.title) == (3, "Noise")


def test_zca_of_the_digits_looks_like_the_digits():
    """ZCA is the whitening whose result is closest to the images."""
    images = load_images("digits", "not needed")
    centred = images.train_inputs.flatten(1).double() / 16
    centred -= centred.mean(0)
    distance = {
        how: (preprocess(images, how).train_inputs - centred).pow(2).mean().item()
        for how in ("pca", "zca")
    }
    assert distance["zca"] < distance["pca"]
    # White is 16 there: as 255ths, no variance would be far above epsilon.
    kept = preprocess(images, "zca").train_inputs.var(0).mean()
    assert kept > 0.85


def test_unknown_preprocessing():
    with pytest.raises(ValueError, match=r"unknown pre-processing 'whiten'; known: normalise, pca"):
        preprocess(random_images(), "whiten")


# --- normalisation --------------------------------------------------------------------------------


def image_data(train: torch.Tensor, test: torch.Tensor) -> ImageData:
    labels = [torch.zeros(len(part), dtype=torch.int64) for part in (train, test)]
    return ImageData(train, labels[0], test, labels[1], num_classes=1, title="Noise")


def test_normalise_is_per_channel_with_constants_of_the_training_set():
    generator = torch.Generator().manual_seed(0)
    train = torch.randint(0, 256, (50, 3, 4, 5), generator=generator, dtype=torch.uint8)
    train[:, 1] //= 4
    test = torch.randint(0, 256, (7, 3, 4, 5), generator=generator, dtype=torch.uint8)
    raw = train.clone(), test.clone()
    data = normalise(image_data(train, test))

    std, mean = torch.std_mean(train.double(), dim=(0, 2, 3), correction=0, keepdim=True)
    for actual, images in ((data.train_inputs, train), (data.test_inputs, test)):
        expected = ((images.double() - mean) / std).flatten(1)
        torch.testing.assert_close(actual.double(), expected, rtol=0, atol=1e-5)
    assert data.train_inputs.shape == (50, 60)
    assert torch.equal(train, raw[0])
    assert torch.equal(test, raw[1])


def test_constant_channel_is_refused():
    images = torch.full((3, 1, 2, 2), 7, dtype=torch.uint8)
    with pytest.raises(ValueError, match="Noise: a channel is constant"):
        normalise(image_data(images, images))
