"""/metrics of a real daemon against docs/metrics.md."""

import re

from daemon import ROOT, Daemon

ROW = re.compile(r"^\| `(automodeld_\w+)` \| (\w+) \| ([\w,]*) \|", re.MULTILINE)


def test_every_documented_metric_is_there_with_its_labels(falls_back):
    with Daemon(*falls_back) as daemon:
        daemon.generate("kjv", text="And", max_tokens=4)
        daemon.embed("kjv", ["And"])
        page = daemon.get("/metrics")
    rows = ROW.findall((ROOT / "docs" / "metrics.md").read_text())
    assert len(rows) > 10
    for name, kind, labels in rows:
        assert f"# TYPE {name} {kind}\n" in page
        sample = name + ("_count" if kind == "histogram" else "")
        found = re.search(rf"^{sample}\{{(.*)\}} \S+$", page, re.MULTILINE)
        assert found, sample
        assert set(re.findall(r'(\w+)="', found[1])) == set(labels.split(","))
    assert set(re.findall(r"^# TYPE (automodeld_\w+)", page, re.MULTILINE)) == {name for name, _, _ in rows}
