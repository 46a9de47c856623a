"""Parts of pages: right values, nothing that breaks out of the markup, nothing from the network."""

import base64
import json
import re

import numpy as np

from xmodal import page


def test_a_page_is_one_file_without_addresses():
    text = page.document("a < b", [page.section("x & y", page.table(("n",), [["<i>"]])), page.section("empty", "")])
    assert not re.search(r"(src|href)=\"(?!data:)", text)
    assert "http" not in text
    assert "<title>a &lt; b</title>" in text
    assert "<h2>x &amp; y</h2>" in text
    assert "&lt;i&gt;" in text
    assert "empty" not in text


def test_tables_put_numbers_right():
    text = page.table(("name", "n", "%"), [["a", 1234, 12.345], ["b", None, "7 %"]])
    assert '<td>a</td><td class="num">1,234</td><td class="num">12.3</td>' in text
    assert '<td>b</td><td class="num"></td><td class="num">7 %</td>' in text
    rows = [[i] for i in range(5)]
    assert page.table(("n",), rows, fold=4).startswith("<details><summary>5 rows</summary>")


def test_curves_are_where_their_values_are():
    """The plane is 396 x 180 from (52, 24): x = 0..4, y = 0..10."""
    text = page.chart({"a": [(0, 0), (2, 5), (4, 10)], "<b>": [(4, 2.5)]}, "y", "x", top=10)
    assert 'points="52.0,204.0 250.0,114.0 448.0,24.0"' in text
    assert 'cx="448.0" cy="159.0"' in text
    assert "&lt;b&gt;: 2.5 at 4" in text
    assert "<svg" in page.chart({"none": []}, "y", "x")


def test_ticks():
    found = [page.tick(v) for v in (0, 0.5, 150, 9999, 12_345, 1_234_567, 0.000525)]
    assert found == ["0", "0.5", "150", "1e+04", "12.3k", "1.23M", "5.2e-04"]


def test_confusion_shades_are_shares_of_the_true_class():
    text = page.confusion("t", [[3, 1], [0, 0]], ["a", 'b"'])
    assert re.findall(r"--share:([\d.]+)", text) == ["0.75", "0.25", "0.00", "0.00"]
    assert 'title="a taken for b&quot;: 1">1</td>' in text
    assert "confusion large" in page.confusion("t", np.eye(17, dtype=int).tolist(), [str(i) for i in range(17)])


def test_clouds_keep_their_shape():
    coord = np.array([[10.0, 0, 0], [12, 1, 0], [10, 0, 4]])
    corners = np.array([[10.0, 0, 0]] * 8)
    text = page.cloud(coord, np.array([[255, 0, 0]] * 3), [(corners, "a & b 0.90")])
    points = np.frombuffer(base64.b64decode(re.search(r'data-points="([^"]*)', text)[1]), "<u2").reshape(3, 3)
    np.testing.assert_allclose((points / 65535 - 0.5) * 4 + [11, 0.5, 2], coord, atol=1e-3)
    box = re.search(r'data-boxes="([^"]*)', text)[1].replace("&quot;", '"').replace("&amp;", "&")
    assert json.loads(box) == [{"corners": [[-0.25, -0.125, -0.5]] * 8, "name": "a & b 0.90"}]
    many = page.cloud(np.random.default_rng(0).normal(size=(50_000, 3)))
    assert len(base64.b64decode(re.search(r'data-colors="([^"]*)', many)[1])) == 3 * 8000


def test_data_cannot_end_its_element():
    text = page.data("x", {"a": "</script><b>"})
    assert text.count("</script>") == 1
    assert json.loads(re.search(r">(.*)</script>", text)[1]) == {"a": "</script><b>"}
