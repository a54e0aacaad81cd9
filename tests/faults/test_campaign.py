"""The short form of the campaign: a few faults of every family."""

import json

import campaign


def test_a_short_campaign(tmp_path):
    found = campaign.campaign(tmp_path, faults=6, seed=3, write=lambda entries: None)
    bad = [entry for entry in found if entry["outcome"] != "survived"]
    assert not bad, "\n".join(f"{entry['kind']}: {entry.get('output')}" for entry in bad)
    assert len({entry["kind"] for entry in found}) > 4
    assert "| fault |" in campaign.table(found)


def test_the_document_has_the_table_of_the_campaign():
    root = campaign.ROOT
    found = json.loads((root / "results" / "faults.json").read_text())["faults"]
    assert campaign.table(found) in (root / "docs" / "reliability.md").read_text()


def test_results_name_no_folder_of_a_machine():
    text = (
        'File "/usr/lib/python3.11/multiprocessing/util.py", 8 images/s, read /a/b/run_0/report.md'
    )
    short = 'File "multiprocessing/util.py", 8 images/s, read run_0/report.md'
    assert campaign.without_folders(text) == short
    found = json.loads((campaign.ROOT / "results" / "faults.json").read_text())["faults"]
    outputs = [entry["output"] for entry in found if "output" in entry]
    assert outputs and [campaign.without_folders(x) for x in outputs] == outputs
