"""The built site: no warning, no dead link, nothing from the network, no departure unread."""

import csv
import re
import subprocess
import sys
import zlib
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

ROOT = Path(__file__).parent.parent.parent
DOCS = ROOT / "docs"
sys.path.insert(0, str(DOCS))
from extensions import departures, inventories  # noqa: E402


class Page(HTMLParser):
    """The ids of a page, where it links to, what it loads, its pictures' words and its tags."""

    def __init__(self, path):
        super().__init__()
        self.ids, self.links, self.loads = set(), set(), set()
        self.pictures, self.tags = [], {}
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.ids |= {attrs[key] for key in ("id", "name") if attrs.get(key)}
        if tag == "a" and attrs.get("href"):
            self.links.add(attrs["href"])
        if tag == "img":
            self.pictures.append(attrs.get("alt") or "")
        if tag == "meta" and "content" in attrs:
            self.tags[attrs.get("name") or attrs.get("property")] = attrs["content"]
        if tag in ("script", "img", "iframe", "source") and attrs.get("src"):
            self.loads.add(attrs["src"])
        if tag == "link" and attrs.get("rel") in ("stylesheet", "icon", "preload"):
            self.loads.add(attrs["href"])


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    out = tmp_path_factory.mktemp("site")
    flags = ("--fail-on-warning", "--keep-going", "--quiet", "--fresh-env", "-b", "html")
    done = subprocess.run(
        [sys.executable, "-m", "sphinx", *flags, "-d", str(out / "doctrees"), str(DOCS), str(out)],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return out


def dead(site):
    """Every relative link and load of a site that leads nowhere, as (page, link)."""
    pages = {path.resolve(): Page(path) for path in site.rglob("*.html")}
    for path, page in pages.items():
        for link in page.links | page.loads:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            anchor = unquote(parts.fragment)
            if not target.is_file() or (
                anchor and target in pages and anchor not in pages[target].ids
            ):
                yield path.name, link


def test_every_relative_link_and_anchor_resolves(site):
    assert len(list(site.rglob("*.html"))) > 30
    assert not list(dead(site))


def test_a_dead_link_and_a_dead_anchor_are_seen(tmp_path):
    page = '<a href="gone.html"></a><a href="#gone"></a><p id="here"><a href="#here"></a></p>'
    (tmp_path / "page.html").write_text(page)
    assert {link for _, link in dead(tmp_path)} == {"gone.html", "#gone"}


def test_pages_load_nothing_from_the_network(site):
    for path in site.rglob("*.html"):
        for load in Page(path).loads:
            assert not urlsplit(load).netloc, f"{path.name} loads {load}"
    for path in site.rglob("*.css"):
        assert not re.search(r"url\(['\"]?(https?:)?//", path.read_text()), path.name


def test_every_picture_has_words(site):
    pictures = [(p.name, words) for p in site.rglob("*.html") for words in Page(p).pictures]
    assert len(pictures) > 30
    assert not [(page, words) for page, words in pictures if not words or "_images" in words]


def test_every_page_says_to_other_sites_what_it_is(site):
    sources = [path for path in DOCS.rglob("*.*") if path.suffix in (".md", ".ipynb")]
    for path in (path for path in sources if "_build" not in path.parts):
        tags = Page((site / path.relative_to(DOCS)).with_suffix(".html")).tags
        assert tags["og:title"], path
        assert 20 < len(tags["og:description"]) <= 210, path
        assert tags["description"] == tags["og:description"], path


def test_names_of_torch_lead_to_its_pages(site):
    links = Page(site / "api" / "ica.html").links
    assert f"{inventories.SITES['torch']}tensor_attributes.html#torch.dtype" in links


def test_an_inventory_is_in_sphinx_s_format():
    head, _, packed = inventories.inventory("torch", "torch.Tensor class t.html#\n").partition(
        b"zlib.\n"
    )
    assert head.startswith(b"# Sphinx inventory version 2\n# Project: torch\n")
    assert zlib.decompress(packed) == b"torch.Tensor py:class 1 t.html#$ -\n"


def test_every_part_of_the_paper_has_its_row():
    text = (DOCS / "paper.md").read_text().split("## How icasa reads")[0]
    first = " ".join(re.findall(r"^\| ([^|]+) \|", text, re.M))
    for kind, last in (("Eq.", 17), ("Fig.", 9), ("Table", 21), ("Algorithm", 2)):
        for n in range(1, last + 1):
            assert re.search(rf"{kind} {n}\b", first), f"{kind} {n}"
    for path in re.findall(r"`((?:examples|tests|icasa|benchmarks)/[\w/]+\.\w+)`", text):
        assert (ROOT / path).is_file(), path


@pytest.fixture
def code(tmp_path):
    """A tree with two departures, the first over two lines."""
    (tmp_path / "examples").mkdir()
    (tmp_path / "icasa").mkdir()
    text = "x = 1\n    # DIFF: the paper says one,\n    # we say two.\n    # DIFF: and three.\n"
    (tmp_path / "icasa" / "layer.py").write_text(text)
    return departures.collect(tmp_path)


def test_departures_are_collected_with_line_and_all_their_words(code):
    assert [(d.path, d.line, d.text) for d in code] == [
        ("icasa/layer.py", 2, "the paper says one, we say two."),
        ("icasa/layer.py", 4, "and three."),
    ]


def test_a_departure_without_a_row_and_a_row_without_one_are_seen(code):
    keys = ["layer.py: one, we say"]
    assert [d.line for d in departures.unread(keys, code)] == [4]
    assert not departures.unread([*keys, "layer.py: three"], code)
    assert len(departures.match("layer.py: ", code)) == 2  # ambiguous
    assert not departures.match("layer.py: four", code)  # stale
    assert not departures.match("yer.py: three", code)  # another file


def test_a_build_without_a_row_fails(tmp_path):
    """The whole way: a page that reads all departures but one, and one that is gone."""
    rows = [d for d in departures.collect() if d.path != "icasa/attention/sa.py"]
    assert rows
    keys = "\n\n".join(f"{{diff}}`{d.path}: {d.text}`" for d in rows)
    stale = "{diff}`icasa/attention/sa.py: what nobody says`"
    (tmp_path / "paper.md").write_text(f"# Paper\n\n{keys}\n\n{stale}\n\n```{{departures}}\n```\n")
    conf = f"import sys\nsys.path.insert(0, {str(DOCS)!r})\nroot_doc = 'paper'\n"
    conf += "extensions = ['myst_parser', 'extensions.departures']\n"
    (tmp_path / "conf.py").write_text(conf)
    done = subprocess.run(
        [sys.executable, "-m", "sphinx", "--fail-on-warning", "-q", str(tmp_path),
         str(tmp_path / "out")],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 1
    assert "what nobody says` must name one DIFF, matches 0" in done.stderr
    assert re.search(r"icasa/attention/sa.py:\d+ is read nowhere", done.stderr)
    assert "icasa/attention/ica.py" not in done.stderr


def test_rows_show_the_chosen_columns_and_rows_or_the_command(tmp_path):
    file = "benchmarks/results/aam_step.csv"
    (tmp_path / "index.md").write_text(
        f"# Rows\n\n```{{rows}} {file}\n:columns: batch = batch size | plain ms\n"
        ":where: attention=none\n```\n\n"
        "```{rows} benchmarks/results/gone.csv\n:command: python -m gone\n```\n"
    )
    conf = f"import sys\nsys.path.insert(0, {str(DOCS)!r})\n"
    (tmp_path / "conf.py").write_text(conf + "extensions = ['myst_parser', 'extensions.tables']\n")
    command = [sys.executable, "-m", "sphinx", "-b", "text", "--fail-on-warning", "-q"]
    subprocess.run([*command, str(tmp_path), str(tmp_path / "out")], check=True)
    text = (tmp_path / "out" / "index.txt").read_text()
    with (ROOT / file).open(newline="") as lines:
        kept = [row for row in csv.DictReader(lines) if row["attention"] == "none"]
    shown = re.findall(r"^\| (\S+) +\| (\S+) +\|$", text, re.M)
    assert shown == [(row["batch"], f"{float(row['plain ms']):.0f}") for row in kept]
    assert "batch size" in text
    assert 'Not measured yet:* "python -m gone" writes' in text


def test_the_citation_names_the_paper():
    yaml = pytest.importorskip("yaml")
    cff = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert {"cff-version", "message", "title", "authors"} <= set(cff)
    assert cff["preferred-citation"]["title"] in (DOCS / "paper.md").read_text().replace("\n", " ")
