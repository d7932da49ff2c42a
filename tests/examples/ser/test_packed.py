"""A packed corpus trains as its clips do."""

from examples.ser import packed, train
from examples.ser.synthetic import write_synthetic


def test_training_is_as_with_the_clips_but_for_half_precision(tmp_path, capsys):
    manifest = write_synthetic(tmp_path / "corpus", per_class=1)
    cache = ("--cache", tmp_path / "cache")
    packed.main([*map(str, ("--manifest", manifest, *cache, "--out", tmp_path / "a.npz"))])
    assert "a.npz: 32 clips, " in capsys.readouterr().out
    more = ("--attention", "none", "--batch-size", 32, "--threads", 1, "--device", "cpu")
    rows = []
    for source in (("--packed", tmp_path / "a.npz"), ("--manifest", manifest, *cache)):
        flags = (*source, "--out", tmp_path / source[0][2:], "--epochs", 1, "--quiet", *more)
        rows.append(train.main([str(flag) for flag in flags])[0])
    assert rows[0]["corpus"] == rows[1]["corpus"] == "synthetic"
    assert abs(rows[0]["ECE"] - rows[1]["ECE"]) < 0.02
