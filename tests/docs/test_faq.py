"""What docs/faq.md quotes and no block of it prints."""

from pathlib import Path

import hatch_build

ROOT = Path(__file__).parent.parent.parent


def test_no_compiler(tmp_path, monkeypatch, capsys):
    (tmp_path / hatch_build.LIBRARY).parent.mkdir(parents=True)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    assert not hatch_build.compile_native(tmp_path)
    printed = capsys.readouterr().out
    assert "no C compiler" in printed
    assert f"```text\n{printed}```" in (ROOT / "docs" / "faq.md").read_text()
