"""The page as text: complete, valid, self-contained, honest."""

import base64
import io
import os
import re
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise

import pytest
import torch
from PIL import Image
from training_runs import Tables

from orchestrator.pipeline.manifest_content import ManifestContent
from orchestrator.pipeline.summary import summarise
from orchestrator.report import RegistryStatus, render
from orchestrator.report.charts import learning_chart
from orchestrator.report.findings import Findings

from .conftest import make_evidence

VOID = {"meta", "img", "br", "link", "input", "hr"}


class Page(HTMLParser):
    """Elements with their attributes, checked for nesting while they are read."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.open: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture(scope="module")
def text(evidence):
    return render(evidence)


@pytest.fixture(scope="module")
def page(text):
    return Page(text)


def test_ids_are_unique_and_every_reference_finds_its_id(page):
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    wanted = [a["href"][1:] for _, a in page.elements if a.get("href", "").startswith("#")]
    wanted += [a["xlink:href"][1:] for _, a in page.elements if "xlink:href" in a]
    wanted += [
        i
        for _, a in page.elements
        for k in ("aria-labelledby", "aria-describedby")
        for i in a.get(k, "").split()
    ]
    assert wanted
    assert set(wanted) <= set(ids)


def test_it_needs_no_network_and_runs_no_script(page, text):
    assert not page.all("script")
    assert not page.all("link")
    for _, attributes in page.elements:
        for key in ("src", "href", "xlink:href"):
            assert attributes.get(key, "#").startswith(("#", "data:"))
    assert not re.search(r"url\((?!#)", text)


def test_figures_and_images_are_described_in_words(page):
    charts = [a for a in page.all("svg") if a.get("class") == "chart"]
    assert len(charts) == 4
    assert all(a["role"] == "img" and a["aria-labelledby"] for a in charts)
    assert len(page.all("title")) == len(page.all("desc")) + 1 == 5
    assert all(a["alt"] for a in page.all("img"))
    assert len(page.all("img")) == 18


def test_every_table_has_a_caption_and_its_headers_a_scope(page):
    tables = len(page.all("table"))
    assert tables >= 7
    assert len(page.all("caption")) == tables
    assert all(attributes.get("scope") in ("row", "col", "colgroup") for attributes in page.all("th"))


def test_every_figure_and_table_that_may_scroll_has_a_name_of_its_own(page):
    groups = [a for a in page.all("div") if a.get("role") == "group"]
    names = [a.get("aria-labelledby") or a["aria-label"] for a in groups]
    assert len(names) == len(page.all("table")) + 4
    assert len(set(names)) == len(names)


def test_that_an_interval_holds_zero_is_told_by_a_sign_and_not_by_colour_alone(text):
    grey = re.findall(r'<td class="unclear">([^–]*?)</td>', text)
    assert grey
    assert all("<sup>†</sup>" in cell for cell in grey)
    assert text.count("<sup>†</sup>") == len(grey)
    assert "Grey with †: the interval holds 0" in text


def test_headings_descend_one_level_at_a_time(page):
    levels = [int(name[1]) for name, _ in page.elements if re.fullmatch(r"h[1-6]", name)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(later <= earlier + 1 for earlier, later in pairwise(levels))


def test_figures_take_their_colours_from_the_page(text):
    assert "var(--averaged)" in text.split("<svg", 1)[1]
    assert not re.search(r"#0[1-9]0[1-9]0[1-9]", text)


def test_epochs_are_whole(text):
    for figure in ("learning", "diversity"):
        (drawn,) = re.findall(rf'<svg[^>]*aria-labelledby="[^"]*{figure}.*?</svg>', text, re.DOTALL)
        labels = set(re.findall(r">([\d.]+)</text>", drawn))
        assert labels >= {"1", "2", "3"}
        assert not labels & {"1.25", "1.50", "1.75"}


def test_a_run_that_was_validated_once_is_seen_as_a_point_at_a_whole_epoch(evidence):
    record = {"train/loss": 1.5, "averaged/accuracy": 0.5, "averaged/nll": 1.0}
    once, twice = (
        learning_chart(replace(evidence, histories={"student": history}))
        for history in ([{"epoch": 2.0, **record}], [{"epoch": epoch, **record} for epoch in (2.0, 3.0)])
    )
    epochs = r'-xtick_\d+">(?:(?!-[xy]tick_).)*?>([\d.]+)</text>'
    assert re.findall(epochs, once, re.DOTALL) == ["2", "2"]
    point = r"<use [^>]*var\(--averaged\)"
    assert (len(re.findall(point, once)), len(re.findall(point, twice))) == (
        4,
        0,
    )  # in three panels, and in the legend


@pytest.mark.parametrize("loss", [[2.3], [2.3, 2.3], [2.3, 2.29999], [0.0, 2.3], [0.0]])
def test_losses_that_hardly_differ_span_no_empty_decades(evidence, loss):
    """With a single training run of an epoch or two."""
    record = {"averaged/accuracy": 0.5, "averaged/nll": 1.0}
    history = [{"epoch": 1.0 + epoch, "train/loss": value, **record} for epoch, value in enumerate(loss)]
    drawn = learning_chart(replace(evidence, histories={"student": history}))
    labels = [float(label) for label in re.findall(r">([\d.]+)</text>", drawn.partition("Training loss")[0])]
    shown = [label for label in labels if label not in (1, 2)]  # those are epochs
    assert shown
    assert all(2 < label < 2.6 for label in shown) == (max(loss) > 0)


def test_seeds_resamples_threads_and_batches_are_stated(text):
    assert "2000 resamples, seed 0" in text
    assert "on CPU with 1 thread, torch 2" in text
    assert "ms, batch of 64" in text


def test_calibration_has_differences_with_intervals_before_and_after_the_temperature(text, page):
    section = text.partition('<section id="calibration"')[2].partition("</section>")[0]
    interval = r"<td[^>]*>[+−±][\d.]+(?:<sup>†</sup>)?<small>[+−±][\d.]+ to [+−±][\d.]+</small></td>"
    for metrics, table in zip(("ECE Brier", "ECE NLL"), section.split("<table>")[1:], strict=True):
        assert [title in table for title in metrics.split()] == [True, True]
        (averaged,) = re.findall(r'<tr class="averaged">.*?</tr>', table, re.DOTALL)
        assert len(re.findall(interval, averaged)) == 4
    assert "stays as it is in every resample" in section


def test_costs_are_parameters_macs_and_latency_with_its_quartiles(text):
    (drawn,) = re.findall(r'<svg[^>]*aria-labelledby="cost-title".*?</svg>', text, re.DOTALL)
    for axis in ("parameters", "multiply-accumulates an image", "ms an image, batches of 64"):
        assert f">{axis}</text>" in drawn
    assert "<td>6.00<small>5.80 to 6.40</small></td>" in text


@pytest.mark.slow
@pytest.mark.parametrize("forgotten", [["latency_quartiles_ms"], ["latency_quartiles_ms", "latency_ms"]])
def test_a_run_that_recorded_less_of_the_latency_can_be_reported(forgotten):
    old = make_evidence()
    less = {
        name: values.model_copy(update=dict.fromkeys(forgotten)) for name, values in old.predictors.items()
    }
    page = render(replace(old, summary=old.summary.model_copy(update={"predictors": less})))
    assert "quartiles" not in page
    assert ("<td>6.00</td>" in page) == ("latency_ms" not in forgotten)


@pytest.mark.slow
def test_the_same_run_gives_the_same_page(evidence, text):
    assert render(evidence) == text


@pytest.mark.slow
@pytest.mark.parametrize(("times", "hardly"), [(1.0, True), (1.05, True), (3.0, False)])
def test_a_perturbation_that_hardly_acted_is_said_to_be_one(evidence, times, hardly):
    clean = torch.tensor([[[0.6, 0.4]], [[0.4, 0.6]]])
    apart = 0.1 * times**0.5  # the KL between such a pair grows with its square, nearly
    perturbed = torch.tensor([[[0.5 + apart, 0.5 - apart]], [[0.5 - apart, 0.5 + apart]]])
    tensors = {f"perturbation/teachers/{k}": v for k, v in (("clean", clean), ("perturbed", perturbed))}
    findings = Findings(replace(evidence, tensors=Tables({**evidence.tensors, **tensors})))
    assert findings.hardly_perturbed is hardly


def test_a_run_on_an_mlflow_server_links_to_its_page_there(evidence):
    model = replace_model(evidence, experiment_id="7")
    page = render(model, tracking_uri="https://mlflow.example/")
    assert f'href="https://mlflow.example/#/experiments/7/runs/{"e" * 32}"' in page
    for elsewhere in ("sqlite:///mlflow.db", "javascript:alert(1)", None):
        assert "/runs/" not in render(model, tracking_uri=elsewhere)


def replace_model(evidence, **changes):
    summary = evidence.summary
    model = summary.registered_model.model_copy(update=changes)
    return replace(evidence, summary=summary.model_copy(update={"registered_model": model}))


def test_names_are_text_not_markup():
    page = render(make_evidence(2, names=["<script>alert(1)</script>", "a & b"]))
    assert "<script" not in page
    assert "&lt;script&gt;" in page


def test_the_surest_mistakes_are_shown_with_what_the_teachers_make_of_them():
    made = make_evidence(3, names=["<cat>", "dog", "eel"])
    tensors = Tables(made.tensors)
    shown = [7, 2]
    for index, row in ((7, [0.0, 0.0, 1.0]), (2, [0.875, 0.125, 0.0])):  # of classes 1 and 2
        tensors["test/averaged"][0, index] = torch.tensor(row)
    tensors["test/ensemble"][:, 7] = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    tensors["test/ensemble"][:, 2] = torch.tensor([0.0, 0.0, 1.0])
    pixels = torch.arange(128, dtype=torch.uint8).reshape(2, 1, 8, 8) * 2 + 1
    tensors.update({"mistakes/indices": torch.tensor(shown), "mistakes/images": pixels})
    gallery = (
        render(replace(made, tensors=tensors)).partition("Surest mistakes</h3>")[2].partition("</ul>")[0]
    )
    first, second = (" ".join(text.split()) for text in gallery.split("<li>")[1:])
    assert "<strong>dog</strong>" in first
    assert "taken for eel, 100.0 %" in first
    assert "teachers: &lt;cat&gt; (1 of 2), eel (1 of 2)" in first
    assert "<strong>eel</strong>" in second
    assert "taken for &lt;cat&gt;, 87.5 %" in second
    assert "teachers: eel (2 of 2)" in second
    drawn = [
        Image.open(io.BytesIO(base64.b64decode(data))) for data in re.findall(r"base64,([^\"]+)", gallery)
    ]
    assert [list(image.tobytes()) for image in drawn] == pixels.flatten(1).tolist()


def test_a_run_that_kept_no_test_images_has_no_gallery(text):
    assert "Surest mistakes" not in text


def test_a_student_without_members_has_neither_their_row_nor_their_curve():
    page = render(make_evidence(method="kd"))
    assert "The student has no members" in page
    assert "The training images were not perturbed" in page
    assert ">members<" not in page.split("What the predictors are")[0]


@pytest.mark.slow
def test_with_many_classes_the_mistakes_are_listed_instead_of_a_matrix():
    page = render(make_evidence(40))
    assert 'class="confusion"' not in page
    for text in ("taken for", "Classes recognised least", "top-5 accuracy", "balanced accuracy"):
        assert text in page


@pytest.mark.slow
def test_an_unregistered_run_can_be_reported(evidence):
    stages = {name: stage for name, stage in evidence.manifest.stages.items() if name != "register"}
    manifest = evidence.manifest.model_copy(update={"stages": stages})
    page = render(replace(evidence, manifest=manifest, summary=summarise(manifest)))
    assert "not registered yet" in page


@pytest.mark.slow
def test_a_run_from_before_precisions_were_recorded_can_be_reported():
    old = make_evidence()
    content = old.manifest.model_dump(mode="json")
    for stage in ("teachers", "control", "distil"):
        for made in content["stages"][stage]["outputs"].values():
            del made["precision"]
    old = replace(old, manifest=ManifestContent.parse(content, "manifest.json"))
    rows = re.findall(
        r'<tr><th scope="row" class="plain">(?:teacher-\d|control|student)<.*</tr>', render(old)
    )
    assert rows
    assert all("<td>–</td>" in row for row in rows)


def test_what_a_pruned_student_started_from_is_a_dashed_curve_and_its_share_is_said():
    whole = {"name": "resnet", "depth": 8}
    made, plain = (
        make_evidence(student={"members": 2, "architecture": architecture})
        for architecture in ({**whole, "pruned": 0.375}, whole)
    )
    histories = {**made.histories, "unpruned": made.histories["control"]}
    text = render(replace(made, histories=histories))
    assert "37.5 % of its channels pruned" in text
    assert ">unpruned</text>" in text
    assert "channels pruned" not in render(plain)


@pytest.mark.slow
def test_drawing_without_a_home_folder_says_nothing():
    draw = "from orchestrator.report.svg import styled; styled(lambda: None)()"
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("XDG_", "MPLCONFIGDIR"))}
    environment = {**kept, "HOME": os.devnull}
    done = subprocess.run(
        [sys.executable, "-c", draw], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stderr == ""


def test_ids_of_mlflow_runs_are_whole_so_that_they_can_be_pasted(evidence):
    page = render(evidence)
    assert page.count(f"<code>{'f' * 32}</code>") == len(evidence.manifest.teachers) + 2
    assert "whole in <code>manifest.json</code>" in page


def test_it_says_when_it_was_champion_and_what_it_is_now_where_somebody_asked(evidence):
    made = render(evidence)
    assert "ekd-made-up · champion when registered</small>" in made
    assert "better (when registered; <code>ekd models ekd-made-up</code> says what it is now)" in made
    now = render(
        evidence,
        tracking_uri="http://127.0.0.1:5000",
        registry_status=RegistryStatus((), "replaced by version 4: wrong on sevens", "2026-11-23"),
    )
    assert "<small>ekd-made-up</small>" in now
    assert "replaced by version 4: wrong on sevens (on 2026-11-23)" in now
    assert "export MLFLOW_TRACKING_URI=http://127.0.0.1:5000" in now
