"""What all codecs share, and fingerprints."""

import itertools
import warnings

import numpy as np
import pytest
import torch
from rdkit import Chem, DataStructs
from rdkit.Chem import rdFingerprintGenerator

from convexinit.molecules import NoDecoderError, load_codec
from convexinit.molecules.codec import batches_by_length, check_codes
from support.codecs import FORMS, MOLECULES, ArrayLike, LetterCodec, letters


@pytest.fixture(autouse=True)
def _warnings_are_errors():
    """A test that expects a warning says so."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


# --- encode ---------------------------------------------------------------------------------------


def test_codes_come_in_the_order_of_the_molecules():
    smiles = ["CCCCO", "Cc1ccccc1", "CC(=O)Oc1ccccc1C(=O)O", "CCOCC"]  # canonical, of all lengths
    codes = LetterCodec().encode(smiles)
    assert codes.dtype == np.float32
    np.testing.assert_array_equal(codes, [letters(text) for text in smiles])
    np.testing.assert_array_equal(LetterCodec().encode(smiles[::-1]), codes[::-1])
    np.testing.assert_array_equal(LetterCodec().encode(np.array(smiles)), codes)


def test_each_distinct_molecule_is_encoded_once():
    codec = LetterCodec()
    # The same molecule: another order of atoms, a salt, a stereo isomer, the same again.
    smiles = ["CC(N)C(=O)O", "OC(=O)C(C)N", "CC(N)C(=O)O.Cl", "C[C@H](N)C(=O)O", "CC(N)C(=O)O"]
    codes = codec.encode([*smiles, "CCCCO"])
    assert sorted(text for batch in codec.batches for text in batch) == ["CC(N)C(=O)O", "CCCCO"]
    np.testing.assert_array_equal(codes, [letters("CC(N)C(=O)O")] * 5 + [letters("CCCCO")])


def test_one_warning_counts_what_cannot_be_encoded():
    codec = LetterCodec()
    bad = ["C", "CC", "C", "not a molecule", "CCCSCC", "\ud800"]
    with pytest.warns(UserWarning) as caught:  # noqa: PT030
        codes = codec.encode([bad[0], "CCCCO", *bad[1:], "CCOCC"])
    assert len(caught) == 1
    assert caught[0].filename == __file__
    message = str(caught[0].message)
    assert "6 of 8 molecules cannot be encoded by letters" in message
    assert (
        "(3 fewer than 4 heavy atoms; 2 not readable as SMILES; 1 with a sulphur atom)" in message
    )
    assert message.endswith("for example 'C', 'CC', 'not a molecule'")
    missing = np.isnan(codes)
    np.testing.assert_array_equal(missing.all(axis=1), [1, 0, 1, 1, 1, 1, 1, 0])
    np.testing.assert_array_equal(missing.any(axis=1), missing.all(axis=1))
    np.testing.assert_array_equal(codes[[1, 7]], [letters("CCCCO"), letters("CCOCC")])
    assert codec.batches == [["CCCCO", "CCOCC"]]


def test_a_text_with_more_in_it_is_counted():
    codec = LetterCodec()
    bad = ["CCCCO\nCCCCN", "CCCCO this is junk CC(", "CCCCO\tbutanol", "CCCCO\n", "CCCCO\0"]
    with pytest.warns(UserWarning, match=r"5 of 6 .*\(5 not readable as SMILES\)"):
        codes = codec.encode([*bad, "CCCCO"])
    assert np.isnan(codes[:5]).all()
    np.testing.assert_array_equal(codes[5], letters("CCCCO"))
    assert codec.batches == [["CCCCO"]]


def test_nothing_to_encode():
    codec = LetterCodec()
    codes = codec.encode([])
    assert codes.shape == (0, 3)
    assert codes.dtype == np.float32
    with pytest.warns(UserWarning, match="1 of 1 molecules"):
        assert np.isnan(codec.encode(["?"])).all()
    assert codec.batches == []


def test_reasons_can_be_had():
    prepared = LetterCodec().prepare(["OCCCC", "CC", "CCCSCC"])
    assert [item.smiles for item in prepared] == ["CCCCO", None, None]
    assert [item.reason for item in prepared] == [
        None,
        "fewer than 4 heavy atoms",
        "with a sulphur atom",
    ]


@pytest.mark.parametrize("function", ["encode", "prepare"])
def test_one_string_is_not_a_list(function):
    with pytest.raises(TypeError, match=r"write \['CCCCO'\]"):
        getattr(LetterCodec(), function)("CCCCO")
    with pytest.raises(TypeError, match=r"item 1 is nan \(float\)"):
        getattr(LetterCodec(), function)(["CCCCO", float("nan")])


@pytest.mark.parametrize(
    "smiles",
    [
        ("CCCCO", "CCOCC"),
        np.array(["CCCCO", "CCOCC"]),
        np.array(["CCCCO", "CCOCC"], dtype=object),
        {"CCCCO": 1, "CCOCC": 2}.keys(),
        (text for text in ["CCCCO", "CCOCC"]),
        map(str, ["CCCCO", "CCOCC"]),
    ],
    ids=lambda smiles: type(smiles).__name__,
)
def test_molecules_come_in_anything_with_an_order(smiles):
    expected = [letters("CCCCO"), letters("CCOCC")]
    np.testing.assert_array_equal(LetterCodec().encode(smiles), expected)


@pytest.mark.parametrize(
    ("wrong", "name"),
    [
        (None, "NoneType"),
        (3, "int"),
        ({"CCCCO"}, "set"),
        ({"CCCCO": 1}, "dict"),
        (np.array("CCCCO"), "ndarray"),
        (np.array([["CCCCO"]]), "ndarray"),
    ],
)
def test_molecules_without_an_order_are_refused(wrong, name):
    for function in ("encode", "prepare"):
        with pytest.raises(TypeError, match=f"expected a list of SMILES, got a {name}"):
            getattr(LetterCodec(), function)(wrong)


def test_batches_are_bounded_and_complete():
    texts = ["C" * length for length in (5, 1, 9, 3, 3, 30, 2)]
    batches = list(batches_by_length(texts, limit=10))
    assert sorted(text for batch in batches for text in batch) == sorted(texts)
    lengths = [[len(text) for text in batch] for batch in batches]
    assert lengths == [[30], [9], [5, 3], [3, 2, 1]]
    assert list(batches_by_length([])) == []


def test_many_batches_are_put_together():
    codec = LetterCodec()
    sizes = itertools.product(range(1, 8), repeat=3)
    smiles = [f"{'C' * a}O{'C' * b}OC(=O)C(=O)N{'C' * c}C(=O)N" for a, b, c in sizes]
    codes = codec.encode(smiles)
    assert len(codec.batches) > 1
    canonical = [item.smiles for item in codec.prepare(smiles)]
    np.testing.assert_array_equal(codes, [letters(text) for text in canonical])
    codes = LetterCodec().encode(smiles * 3)
    np.testing.assert_array_equal(codes, [letters(text) for text in canonical * 3])


def test_check_codes_takes_lists_and_other_types():
    assert check_codes([[1, 2]], 2).dtype == np.float32
    assert check_codes(np.zeros((0, 2)), 2).shape == (0, 2)
    rows = np.zeros((30, 2))
    rows[::2] = np.nan
    with pytest.raises(ValueError, match=r"15 of 30 rows are not: 0, 2, .*18, \.\.\."):
        check_codes(rows, 2)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("rows", [0, 1, 5])
def test_check_codes_takes_any_array_of_numbers(form, rows):
    codes = np.random.default_rng(0).integers(-128, 128, (rows, 4)).astype(np.float32) / 128
    if rows == 0 and not isinstance(FORMS[form](codes), (np.ndarray, torch.Tensor, ArrayLike)):
        return  # a list without rows has no width
    given = FORMS[form](codes.copy())
    result = check_codes(given, 4)
    np.testing.assert_array_equal(result, codes)
    assert result.dtype == np.float32
    torch.from_numpy(result).fill_(3)  # torch warns of what is read-only, and refuses many strides
    np.testing.assert_array_equal(check_codes(given, 4), codes)  # the caller's own are unchanged


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ([[1.0, 2.0], [3.0]], r"an array of real numbers \[n, 2\], got a list: "),
        (torch.ones(1, 2, device="meta"), r"an array of real numbers \[n, 2\], got a Tensor: "),
        (torch.ones(1, 2).to_sparse(), r"got a Tensor: .*to_dense\(\)"),
        (torch.ones(2, requires_grad=True), r"the shape \[n, 2\], got \[2\]"),
        (torch.full((2, 2), torch.nan).bfloat16(), "2 of 2 rows are not: 0, 1"),
        (torch.full((1, 2), 1e300, dtype=torch.float64), "1 of 1 rows are not: 0"),
        (np.ma.masked_equal([[1, 2], [3, 0]], 0), "1 of 2 rows are not: 1"),
        (torch.ones(1, 2, dtype=torch.complex64), "real numbers, got an array of complex64"),
        ([], r"the shape \[n, 2\], got \[0\]"),
    ],
)
def test_check_codes_says_what_is_wrong(wrong, message):
    with pytest.raises(ValueError, match=message):
        check_codes(wrong, 2)


@pytest.mark.parametrize("wrong", [np.ones((1, 2)) * 1j, np.array([["a", "b"]]), [[None, 1.0]]])
def test_check_codes_refuses_what_is_no_number(wrong):
    with pytest.raises(ValueError, match="real numbers"):
        check_codes(wrong, 2)


# --- load_codec -----------------------------------------------------------------------------------


def test_unknown_codec():
    with pytest.raises(
        ValueError, match="codec must be one of autoencoder, cddd, ecfp, got 'mol2vec'"
    ):
        load_codec("mol2vec")


# --- fingerprints ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("dimensions", "radius"), [(2048, 2), (1024, 2), (512, 3)])
def test_fingerprints_are_those_of_rdkit(dimensions, radius):
    codec = load_codec("ecfp", dimensions=dimensions, radius=radius)
    codes = codec.encode(MOLECULES)
    assert codes.shape == (5, dimensions)
    assert codes.dtype == np.float32
    generator = rdFingerprintGenerator.GetMorganGenerator(radius=radius, fpSize=dimensions)
    for smiles, code in zip(MOLECULES, codes, strict=True):
        on = generator.GetFingerprint(Chem.MolFromSmiles(smiles)).GetOnBits()
        np.testing.assert_array_equal(np.flatnonzero(code), list(on))
        assert set(code) == {0.0, 1.0}


def test_defaults_of_fingerprints():
    codec = load_codec("ecfp")
    assert (codec.name, codec.dimensions) == ("ecfp", 2048)
    digests = {
        load_codec("ecfp", **options).digest
        for options in ({}, {"radius": 3}, {"dimensions": 1024}, {"radius": 2})
    }
    assert len(digests) == 3


def test_similar_molecules_have_similar_fingerprints():
    smiles = ["CCCCCO", "CCCCCCO", "Brc1ccc2ccccc2c1"]
    codes = load_codec("ecfp").encode(smiles)

    def tanimoto(a, b):
        return (a * b).sum() / np.maximum(a, b).sum()

    assert tanimoto(codes[0], codes[0]) == 1
    assert tanimoto(codes[0], codes[1]) > 0.5 > 0.2 > tanimoto(codes[0], codes[2])
    generator = rdFingerprintGenerator.GetMorganGenerator(radius=2, fpSize=2048)
    bits = [generator.GetFingerprint(Chem.MolFromSmiles(text)) for text in smiles]
    expected = DataStructs.TanimotoSimilarity(bits[0], bits[1])
    assert tanimoto(codes[0], codes[1]) == pytest.approx(expected)


def test_fingerprint_of_a_salt_is_that_of_the_parent():
    codes = load_codec("ecfp").encode(["CC(N)C(=O)O", "C[C@H](N)C(=O)O.Cl"])
    np.testing.assert_array_equal(codes[0], codes[1])


def test_fingerprints_cannot_be_decoded():
    with pytest.raises(NoDecoderError, match="ecfp codes cannot be decoded"):
        load_codec("ecfp").decode(np.zeros((1, 2048)))
    assert issubclass(NoDecoderError, NotImplementedError)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weights": "some.npz"}, "ecfp has no weights"),
        ({"dimensions": 0}, "at least 1"),
        ({"radius": -1}, "at least 0"),
    ],
)
def test_fingerprint_options(options, message):
    with pytest.raises(ValueError, match=message):
        load_codec("ecfp", **options)
