"""The download of the weights of CDDD."""


def test_a_download_that_is_not_the_published_file_is_refused(
    script, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(script, "read_plain", lambda url: iter([b"PK", b"another file"]))
    assert script.main(["cddd", "--data-dir", str(tmp_path)]) == 1
    assert "expected 0c4bd08a" in capsys.readouterr().err
    assert not list(tmp_path.rglob("*.npz"))


def test_published_weights_that_are_there_are_not_downloaded_again(
    script, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(script, "find_weights_fault", lambda path: None)
    assert script.main(["cddd", "--data-dir", str(tmp_path)]) == 0
    assert "already there" in capsys.readouterr().out
