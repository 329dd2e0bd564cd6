"""Words of strangers in Dagster's and MLflow's pages: shown as they are, never followed."""

import dagster as dg
import polars as pl
import pytest

from arena.escape import printable
from assets.pictures import in_markdown, in_plain_text, markdown
from assets.study import read_study
from assets.tracking import Tracking
from pipelines.launch import Launcher

IMAGE = "![x](/graphql?query=mutation{x})"
ATTACKS = [
    IMAGE,
    "[click](javascript:alert(1))",
    "<img src=/graphql?query=mutation>",
    "<http://attacker.example>",
    "a | b\n\n![x](/y)",
    "\\![x](/y)",
    "\\\\[x](/y)",
    "`` ` ``![x](/y)",
    "[x]: /y\n[x]",
    "![x][y]",
    "&lt;img src=x&gt;",
    "\u202e)y/(]x[!",
    "\x1b[2J",
]


@pytest.fixture(scope="module")
def rendered():
    """Return what a page makes of markdown: the kinds of its tokens, and its text."""
    module = pytest.importorskip("markdown_it", reason="MLflow's own dependencies lack it")
    parser = module.MarkdownIt("commonmark").enable("table")

    def parse(text):
        tokens = parser.parse(text)
        inner = [each for token in tokens for each in (token.children or [])]
        plain = [each.content for each in inner if each.type in ("text", "text_special")]
        return {each.type for each in [*tokens, *inner]}, "".join(plain)

    return parse


HARMFUL = {"image", "link_open", "html_inline", "html_block"}


@pytest.mark.parametrize("text", ATTACKS)
def test_a_foreign_text_is_text(rendered, text):
    for shown in (in_markdown(text), markdown(pl.DataFrame({text: [text]}))):
        kinds, _ = rendered(shown)
        assert not kinds & HARMFUL
    _, said = rendered(in_markdown(text))
    assert said == printable(text)


def test_the_attack_is_real_without_the_function(rendered):
    assert "image" in rendered(f"| {IMAGE} |")[0]


def test_plain_text_keeps_its_lines_and_no_control():
    assert in_plain_text("one\n\x1b[2Jtwo\u202e") == "one\n\\x1b[2Jtwo\\u202e"


def test_votes_of_strangers_render_nothing_on_any_page(
    write_study, instance, votes_table, rendered
):
    votes = votes_table(600).with_columns(
        source=pl.lit(IMAGE),
        model_a=pl.format("{} {}", pl.lit(IMAGE), "model_a"),
        model_b=pl.format("{} {}", pl.lit(IMAGE), "model_b"),
        prompt=pl.format("{} {}", pl.lit(IMAGE), "prompt"),
        rater=pl.format("{} {}", pl.lit(IMAGE), "rater"),
        vote_id=pl.format("{} {}", pl.lit(IMAGE), "vote_id"),
    )
    broken = votes[:5].with_columns(outcome=pl.lit(IMAGE), vote_id=pl.lit("x"))
    study = write_study(votes=pl.concat([votes, broken]))
    (study.path.parent / f"{IMAGE.replace('/', '_')}.csv").write_text("no,votes\n1,2\n")
    text = study.path.read_text().replace('["votes.parquet"]', '["votes.parquet", "!*.csv"]')
    study.path.write_text(text)
    Launcher(read_study(study.path), instance, lambda line: None).rate()
    seen = 0
    for run in instance.get_runs():
        for entry in instance.all_logs(run.run_id):
            event = entry.dagster_event
            if event and event.is_step_materialization:
                metadata = event.materialization.metadata
            elif event and event.event_type == dg.DagsterEventType.ASSET_CHECK_EVALUATION:
                found = event.asset_check_evaluation_data
                metadata = found.metadata | {"description": found.description}
            else:
                continue
            for value in metadata.values():
                is_markdown = isinstance(value, dg.MarkdownMetadataValue | str)
                shown = getattr(value, "value", value) if is_markdown else ""
                if "data:image/png" not in shown:
                    seen += "graphql" in shown
                    assert not rendered(shown)[0] & HARMFUL, shown
    assert seen >= 3  # they are there, as text
    client = Tracking.of(study).client()
    experiment = client.get_experiment_by_name(study.name).experiment_id
    runs = client.search_runs([experiment])
    texts = [each for run in runs for each in (run.data.params | run.data.tags).values()]
    assert [in_plain_text(each) for each in texts] == texts
