"""The page of a quantization in a browser: it draws, the slider walks the exact front, a click opens a panel."""

import json
import re
import shutil
import subprocess

import pytest

import qir
from qir import models
from qir.search import Quantized
from qir.search.report.page.front import front_of

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--virtual-time-budget=4000",
    "--dump-dom",
]

TRY = """
<pre id="seen"></pre><script>
const seen = {errors: []};
addEventListener("error", event => seen.errors.push(event.message));
setTimeout(() => {
  const text = id => document.getElementById(id).textContent;
  seen.headings = [...document.querySelectorAll("h2")].map(h => h.textContent);
  seen.wide = document.documentElement.scrollWidth - document.documentElement.clientWidth;
  const slider = document.getElementById("budget");
  seen.stops = [];
  for (let stop = 0; stop <= Number(slider.max); stop++) {
    slider.value = stop; slider.dispatchEvent(new Event("input"));
    seen.stops.push([text("figures"), text("bits")]);
  }
  document.getElementById("back").click();
  const node = [...document.querySelectorAll(".step")].find(step => step.textContent.includes("fc1"));
  node.dispatchEvent(new Event("click"));
  seen.panel = text("panel"); seen.legend = text("legend");
  seen.forged = document.querySelectorAll("#forged").length;
  document.getElementById("seen").textContent = JSON.stringify(seen);
}, 300);
</script></body>"""


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    images = models.fashion_mnist("calibration").images[:32]
    out = tmp_path_factory.mktemp("out") / "q.onnx"
    how = {"target": "npu-148", "budgets": {"latency": "0.5x"}, "compare": False, "sensitivity": "output-distance"}
    return qir.quantize(models.path("lenet"), data=images, output=out, **how)


def record(page):
    return json.loads(re.search(r"id='record'>(.*?)</script>", page, re.DOTALL).group(1))


def test_the_front_is_that_of_all_policies(done):
    from itertools import product

    front, problem = front_of(done.grounds.problem, done.result), done.grounds.problem
    assert front.exact
    tried = []
    for options in product(*(decision.options for decision in problem.decisions)):
        policy = dict(zip(problem.names, options, strict=True))
        if not [line for line in problem.violations(policy) if not line.startswith("budget")]:
            rows = zip(problem.decisions, problem.sensitivity, strict=True)
            loss = sum(row[decision.options.index(policy[decision.name])] for decision, row in rows)
            tried.append((problem.cost("latency", policy), loss))
    best = [p for p in tried if not any(o != p and o[0] <= p[0] and o[1] <= p[1] for o in tried)]
    assert [(p.costs["latency"], pytest.approx(p.value)) for p in front.points] == sorted(set(best))
    assert dict(done.result.policy) in [dict(point.policy) for point in front.points]


def test_the_page_is_small_whole_and_the_same_from_a_saved_record(done, tmp_path):
    page = done.report(tmp_path / "page.html").read_text(encoding="utf-8")
    assert len(page.encode()) < 200_000
    assert not re.findall(r"(?:src|href)=[\"']?https?:|@import|url\(", page)
    again = Quantized.load(done.save(tmp_path / "d.json")).report(tmp_path / "again.html").read_text(encoding="utf-8")
    assert record(again) == record(page)
    shown = record(page)
    assert [file[0] for file in shown["files"]] == ["model", "guide", "weights"]
    assert shown["noise"]
    assert "Proven optimal" in shown["certificate"]


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
@pytest.mark.parametrize("width", [1400, 500])
def test_in_a_browser_the_slider_moves_bits_and_a_click_opens_a_panel(done, tmp_path, width):
    page = done.report(tmp_path / "page.html")
    page.write_text(page.read_text(encoding="utf-8").replace("</body>", TRY), encoding="utf-8")
    flags = (*FLAGS, f"--window-size={width},900", f"--user-data-dir={tmp_path / 'profile'}")
    ran = subprocess.run([CHROMIUM, *flags, page.as_uri()], capture_output=True, text=True, timeout=120, check=True)
    text = re.search(r'<pre id="seen">(.*?)</pre>', ran.stdout, re.DOTALL).group(1)
    seen = json.loads(text.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&"))
    assert seen["errors"] == []
    assert seen["wide"] <= 0, "something sticks out of the page"
    wanted = {"Trade the budget", "The network and its bits", "Bits per layer", "Files", "Where it comes from"}
    assert wanted <= set(seen["headings"])
    assert len({bits for _, bits in seen["stops"]}) == len({figures for figures, _ in seen["stops"]}) > 3
    assert "fc1.weight" in seen["panel"]
    assert "cycles at each legal pair" in seen["panel"]
