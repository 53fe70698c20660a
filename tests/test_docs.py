"""What the documents say is so: examples run, tables are complete, the map is the territory."""

import dataclasses
import html
import importlib.util
import json
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent
PAGES = sorted((ROOT / "docs").glob("*.md"))
README = (ROOT / "README.md").read_text()
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *PAGES]


def blocks(text, language):
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def table(page, first):
    """Rows of the table whose first column is called `first`, as lists of cells."""
    lines = (ROOT / "docs" / page).read_text().splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith(f"| {first} |"))
    rows = []
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]])
    return rows


def test_the_callback_for_scores_logs_them(tmp_path):
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from ift import IFTConfig, IFTTrainer
    from ift.lab.testbed import problems, tiny_base_path

    (code,) = (
        one for one in blocks((ROOT / "docs" / "coming_from.md").read_text(), "python") if "Scores" in one
    )
    names = {}
    exec(code, names)
    base, rows = str(tiny_base_path()), Dataset.from_list([one.row for one in problems("train", 4)])
    config = IFTConfig(
        output_dir=str(tmp_path), max_steps=2, eval_strategy="steps", eval_steps=1, per_device_train_batch_size=2,
        report_to="none", save_steps=1, metric_for_best_model="eval_right", greater_is_better=True,
    )  # fmt: skip
    trainer = IFTTrainer(
        AutoModelForCausalLM.from_pretrained(base), config, train_dataset=rows, eval_dataset=rows,
        processing_class=AutoTokenizer.from_pretrained(base),
    )  # fmt: skip
    trainer.add_callback(names["Scores"](trainer, [("What is 2 plus 2?", ""), ("What?", "no such text")]))
    trainer.train()
    assert [one["eval_right"] for one in trainer.state.log_history if "eval_right" in one] == [0.5, 0.5]
    assert trainer.state.best_metric == 0.5  # a checkpoint is chosen by it


def test_the_template_without_generation_tags_renders_the_same_in_plain_jinja(tmp_path, monkeypatch):
    """The script of docs/serving.md, on the template of the shipped base."""
    from jinja2 import Environment, TemplateSyntaxError
    from transformers import AutoTokenizer

    from ift.lab.testbed import tiny_base_path

    (code,) = blocks((ROOT / "docs" / "serving.md").read_text(), "python")
    file = tmp_path / "aligned" / "chat_template.jinja"
    file.parent.mkdir()
    text = (tiny_base_path() / file.name).read_text().replace("{%- generation -%}", "{% generation %}\n")
    file.write_text(text)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(TemplateSyntaxError, match="Encountered unknown tag 'generation'"):
        Environment().from_string(text)
    exec(code, {})
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": " b\n"}] * 2
    tokenizer = AutoTokenizer.from_pretrained(tiny_base_path())
    wanted = tokenizer.apply_chat_template(turns, chat_template=text, tokenize=False)
    plain = Environment(trim_blocks=True, lstrip_blocks=True).from_string(
        file.read_text()
    )  # as in transformers
    assert plain.render(messages=turns, eos_token=tokenizer.eos_token) == wanted


def test_rows_from_a_spreadsheet_are_trained_as_written(tmp_path, monkeypatch):
    """The file, the commands and the script, with the shipped tiny base in place of the Hub's model."""
    from typer.testing import CliRunner

    from ift.cli.main import app
    from ift.lab.testbed import tiny_base_path

    page = (ROOT / "docs" / "data.md").read_text()
    text = page[page.index("## From a spreadsheet") : page.index("## Keys and columns")]
    ((sheet,), (script,), (code,)) = (blocks(text, language) for language in ("csv", "bash", "python"))
    (tmp_path / "questions.csv").write_text(f"\ufeff{sheet}", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    said = []
    for line in script.replace(
        "HuggingFaceTB/SmolLM2-135M-Instruct", shlex.quote(str(tiny_base_path()))
    ).splitlines():
        done = CliRunner().invoke(app, shlex.split(line)[1:])
        assert done.exit_code == 0, done.output
        said.append(" ".join(done.output.split()))
    for words in (
        "row 1 is the first below the header; the fields are separated by a semicolon", "format: Alpaca",
        "kept 2 of 3 rows",
        "the answer is empty (row 3)", "column Antwort 2: not used in training (row 1)", "Wann öffnet die Turnhalle?",
        "€",
    ):  # fmt: skip
        assert words in said[0]
    assert "\ufffd" not in said[0]
    assert "kept 2 of 3 rows" in said[1]
    answers = [json.loads(line) for line in (tmp_path / "generated.jsonl").read_text().splitlines()]
    assert [answer["messages"][-1]["content"][:3] for answer in answers] == ["Wan", "Was", "Wo "]
    exec(code, {})
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert [row["output"][:2] for row in rows] == ["Um", "Ab", "2 "]
    assert [len(row["references"]) for row in rows] == [2, 2, 1]


def test_the_map_of_the_source_is_complete_and_true():
    """Every room and flat file is in it, the rooms of `lab` one by one, and nothing else."""
    (block,) = blocks((ROOT / "docs" / "architecture.md").read_text(), "")
    listed = [line.split(maxsplit=1) for line in block.strip().splitlines()]
    assert all(len(line) == 2 for line in listed), "a path without a description"
    paths = [path for path, _ in listed]
    assert len(paths) == len(set(paths))
    for path in paths:
        found = ROOT / path
        assert found.is_dir() if path.endswith("/") else found.is_file(), path
    source = ROOT / "src" / "ift"
    held = [
        path for folder in (source, source / "lab") for path in folder.iterdir() if path != source / "lab"
    ]
    there = {path.relative_to(ROOT).as_posix() + "/" * path.is_dir() for path in held}
    assert {path for path in paths if path.startswith("src/")} == {
        path for path in there if "__pycache__" not in path
    }


def test_the_picture_of_the_data_s_way_names_rooms_and_files_that_exist():
    picture = (ROOT / "docs" / "images" / "data-way.svg").read_text()
    places = [
        place for text in re.findall(r'class="room"[^>]*>([^<]+)<', picture) for place in text.split(", ")
    ]
    assert {"data/", "training/", "equations.py"} <= set(places)
    for place in places:
        folder = ROOT / "src" / "ift" / ("step" if place.endswith(".py") else "")
        assert (folder / place).exists(), place


def test_the_rooms_stand_in_one_order_everywhere():
    """In docs/architecture.md as in the contract that `make lint` checks."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    (layers,) = (one["layers"] for one in contracts if one["type"] == "layers")
    line = next(
        line
        for line in (ROOT / "docs" / "architecture.md").read_text().splitlines()
        if line.startswith("`data | step`")
    )
    assert re.findall(r"`(.+?)`", line) == layers[::-1]


def test_the_files_of_everyday_changes_are_there():
    for change, files, tests in table("architecture.md", "change"):
        named = re.findall(r"`([\w/.]+)`", files + tests)
        assert named, change
        for name in named:
            assert any((ROOT / root / name).exists() for root in ("src/ift", "")), f"{change}: {name}"


def test_every_setting_of_ours_is_explained_once_with_its_default():
    from trl import SFTConfig

    from ift import IFTConfig

    inherited = {field.name for field in dataclasses.fields(SFTConfig)}
    ours = {
        field.name: field.default for field in dataclasses.fields(IFTConfig) if field.name not in inherited
    }
    rows = table("configuration.md", "field")
    assert [row[0].strip("`") for row in rows] == list(dict.fromkeys(row[0].strip("`") for row in rows))
    assert {row[0].strip("`"): row[1] for row in rows} == {name: str(value) for name, value in ours.items()}
    assert all(len(row[2]) > 20 for row in rows)


def test_every_metric_is_explained_once(tmp_path):
    """Those that a run with evaluation writes, and that the table names no other."""
    from datasets import Dataset

    from ift import IFTConfig, IFTTrainer
    from ift.lab.testbed import problems, tiny_base_path

    rows = Dataset.from_list([problem.row for problem in problems("train", 4)])
    config = IFTConfig(
        output_dir=str(tmp_path), max_steps=2, per_device_train_batch_size=4, logging_steps=1, report_to="none",
        eval_strategy="steps", eval_steps=1, save_strategy="no", gradient_checkpointing=False,
    )  # fmt: skip
    IFTTrainer(model=str(tiny_base_path()), args=config, train_dataset=rows, eval_dataset=rows).train()
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    logged = {name.removeprefix("eval_") for line in lines for name in line}
    of_transformers = {
        "grad_norm", "learning_rate", "epoch", "total_flos", "step", "time", "runtime", "samples_per_second",
        "steps_per_second", "train_loss", "train_runtime", "train_samples_per_second", "train_steps_per_second",
    }  # fmt: skip
    explained = [row[0].strip("`") for row in table("metrics.md", "metric")]
    assert len(explained) == len(set(explained))
    assert set(explained) - {"aux_loss"} == logged - of_transformers


def test_the_table_of_methods_is_that_of_the_code():
    """Names, fixed and default settings, rows and models held."""
    from ift.methods import ALIASES, CONTROLS, METHODS

    rows = {re.findall(r"`([\w-]+)`", row[0])[0]: row for row in table("baselines.md", "method")}
    assert list(rows) == list(METHODS)
    for name, method in METHODS.items():
        assert (rows[name][3] == "pairs") == method.needs_pairs
        assert int(rows[name][4]) == method.models_held
        for setting, value in method.defaults.items():
            assert re.search(rf"`{setting}`( \(a\))? {value:g}", rows[name][2].replace("2.0", "2")), (
                name,
                setting,
            )
    text = (ROOT / "docs" / "baselines.md").read_text()
    assert all(f"`{alias}`" in rows[name][0] for alias, name in ALIASES.items())
    assert all(f"--method {name}" in text for name in CONTROLS)


def test_the_differences_are_numbered_one_by_one():
    text = (ROOT / "docs" / "differences.md").read_text()
    numbers = [int(number) for number in re.findall(r"^\* \*\*D(\d+)\*\*", text, re.MULTILINE)]
    assert numbers == list(range(1, len(numbers) + 1))


@pytest.mark.parametrize("page", DOCUMENTS, ids=lambda page: page.name)
def test_numbers_of_differences_that_are_cited_exist(page):
    known = set(re.findall(r"\*\*D(\d+)\*\*", (ROOT / "docs" / "differences.md").read_text()))
    assert set(re.findall(r"\bD(\d+)\b", page.read_text())) <= known


def test_every_public_name_is_in_the_reference():
    """mkdocstrings renders `ift.step` whole, by its `__all__`, and the names of `ift` one by one."""
    import ift

    page = (ROOT / "docs" / "api.md").read_text()
    assert sorted(re.findall(r"^::: ift\.(\w+)$", page, re.MULTILINE)) == sorted([*ift.__all__, "step"])


FORMULAS = re.compile(r"(?<![`\w$])\$\$?(?!\s)([^$`\n]+?)(?<!\s)\$\$?(?![\w$])")


def test_formulas_are_translated_when_the_site_is_built():
    """As mkdocs calls the hook, on what arithmatex makes of a formula in a line and of one in a block."""
    pytest.importorskip("latex2mathml", reason="needs the extra docs")
    from render_math import on_page_content

    page = (
        r'<p>a <span class="arithmatex">\(x_{&lt;t}\)</span></p><div class="arithmatex">\[\sum_t w_t\]</div>'
    )
    made = on_page_content(page, page=None)
    assert made.count("<math") == 2
    assert made.count('display="block"') == 1
    assert "<mo>&#x0003C;</mo>" in made
    assert "arithmatex" not in made


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_formula_is_understood_and_its_signs_are_in_the_font(page):
    """A command that the translator does not know would stand in the page as it was typed."""
    convert = pytest.importorskip("latex2mathml.converter", reason="needs the extra docs").convert
    from fontTools.ttLib import TTFont

    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    glyphs = {*TTFont(ROOT / "docs" / "fonts" / "formulas.woff")["cmap"].getBestCmap()}
    for formula in FORMULAS.findall(text):
        signs = html.unescape(re.sub(r"<[^>]+>", "", convert(formula)))
        assert "\\" not in signs, formula
        assert {ord(sign) for sign in signs if not sign.isspace()} - {0x2061, 0x2062} <= glyphs, formula


def test_nothing_is_loaded_from_elsewhere():
    """Neither by the theme, nor by what the pages add: scripts, styles, images, fonts."""
    site = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
    assert site["theme"]["font"] is False
    assert not site.get("extra_javascript")
    added = [*(ROOT / "docs").rglob("*.css"), *(ROOT / "docs").rglob("*.svg"), *PAGES]
    for file in added:
        text = file.read_text()
        loaded = re.findall(r"(?:url\(|@import|\bsrc=|xlink:href=)\s*[\"']?([^\"')\s]+)", text)
        loaded += re.findall(r"!\[[^\]]*\]\(([^)\s]+)", text)
        assert not [place for place in loaded if re.match(r"(\w+:)?//", place)], file


def test_every_page_is_in_the_navigation():
    navigation = yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]
    pages = [page for group in navigation for entries in group.values() for page in entries]
    listed = [file for page in pages for file in page.values()]
    assert sorted(listed) == [page.name for page in PAGES]


def anchors(page):
    titles = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in titles}


def test_the_readme_is_short():
    assert len(README.splitlines()) <= 120


def test_a_package_page_has_no_link_to_a_file():
    """There the README's links to files become their names; every other one is absolute."""
    hatch = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]
    shown = README
    for change in hatch["metadata"]["hooks"]["fancy-pypi-readme"]["substitutions"]:
        shown = re.sub(change["pattern"], change["replacement"], shown)
    assert "known format (docs/data.md)" in shown
    assert all(target.startswith("https://") for target in re.findall(r"\]\(([^)]+)\)", shown))
    included = hatch["build"]["targets"]["sdist"]["include"]
    for target in re.findall(r"\]\((?!\w+:)([^)#]+)", README):
        assert target.split("/")[0] in included, target


@pytest.mark.parametrize("page", DOCUMENTS, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if re.match(r"\w+:", target):
            continue
        file, _, anchor = target.partition("#")
        there = page.parent / file if file else page
        assert there.exists(), target
        assert not anchor or anchor in anchors(there), target


@pytest.mark.parametrize("page", [*DOCUMENTS, ROOT / "mkdocs.yml"], ids=lambda page: page.name)
def test_no_path_of_a_machine_is_written_down(page):
    assert not re.findall(r"(?<![\w.])/(?:home|root|tmp|work|Users|mnt|opt|usr|var)/\S*", page.read_text())


def test_the_default_template_is_shown_as_it_is():
    from ift.data.templates import _DEFAULT_BODY

    (shown,) = blocks((ROOT / "docs" / "data.md").read_text(), "jinja")
    assert shown.replace("\n", "") == _DEFAULT_BODY


@pytest.mark.parametrize("example", blocks((ROOT / "docs" / "data.md").read_text(), "json"))
def test_the_example_rows_are_of_the_format_under_which_they_stand(example):
    from ift.data import detect_format

    row = json.loads(example)
    before = (ROOT / "docs" / "data.md").read_text().split(example)[0]
    title = re.findall(r"^\*\*([\w -]+)\*\*:", before, re.MULTILINE)[-1]
    form = detect_format(row, [row])
    assert form.name.startswith(title)
    assert form.convert(row, 1)


@pytest.mark.parametrize("page", DOCUMENTS, ids=lambda page: page.name)
def test_imports_of_ours_in_the_documents_work(page):
    for code in blocks(page.read_text(), "python"):
        for line in re.findall(r"^(?:from|import) ift.*", code, re.MULTILINE):
            names = {}
            exec(line, names)
            imported = line.partition(" import ")[2].split(", ") if line.startswith("from") else ["ift"]
            assert set(imported) <= set(names), line


def test_flags_in_the_documents_exist(monkeypatch):
    import typer
    from accelerate.commands.launch import launch_command_parser
    from torch.distributed.run import get_args_parser as torchrun_parser

    from ift.cli.check_options import make_parser as make_check_parser
    from ift.cli.compare import make_parser as make_study_parser
    from ift.cli.main import app
    from ift.cli.show import make_parser as make_show_parser
    from ift.methods import METHODS
    from ift.methods.table import CONTROLS
    from ift.runs.arguments import make_parser

    words = {"--help", "--help-all", "--config", "--accelerate_config"}
    words |= {"--head", "--port", "--address", "--num-cpus"}  # of `ray start`
    for verb in typer.main.get_command(app).commands.values():
        words |= {word for option in verb.params for word in (*option.opts, *option.secondary_opts)}
    words |= {*launch_command_parser()._option_string_actions, *torchrun_parser()._option_string_actions}
    words |= {*make_check_parser()._option_string_actions, *make_show_parser()._option_string_actions}
    for verb in ("compare", "ablate"):
        words |= {*make_study_parser(verb)._option_string_actions}
    for method in (*METHODS.values(), *CONTROLS.values()):
        words |= {*make_parser(method)._option_string_actions}
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    from step_cost import make_parser as make_benchmark_parser

    words |= {*make_benchmark_parser()._option_string_actions}
    words |= {"--outfile", "--outtype"}  # of llama.cpp's converter
    words |= {"--enable-lora", "--lora-modules", "--max-lora-rank"}  # of vLLM
    wrong = {"--residual_lamda"}  # shown as a mistake
    for page in [ROOT / "README.md", *PAGES]:
        text = re.sub(r"(?m)^#SBATCH .*", "", page.read_text())
        assert set(re.findall(r"(?<![\w-])--[a-z][\w-]+", text)) - words <= wrong, page.name


@pytest.fixture(scope="module")
def docs_made_again(tmp_path_factory):
    """A copy of the pages and the README, each table emptied and each figure removed, then made from the records."""
    folder = tmp_path_factory.mktemp("made")
    shutil.copytree(ROOT / "docs", folder / "docs")
    shutil.copy(ROOT / "README.md", folder)
    for page in [folder / "README.md", *(folder / "docs").glob("*.md")]:
        emptied = re.sub(
            r"(<!-- table: [^\n]* -->\n).*?(<!-- end)", r"\1\2", page.read_text(), flags=re.DOTALL
        )
        page.write_text(emptied)
    for figure in (folder / "docs" / "images").glob("*.svg"):
        if figure.name in FIGURES:
            figure.unlink()
    for script in ("fill_tables.py", "make_figures.py"):
        subprocess.run([sys.executable, folder / "docs" / script], check=True)
    return folder


FIGURES = ("ablate-lambda.svg", "end-of-answers.svg", "push-by-position.svg", "regimes.svg")


@pytest.mark.parametrize("page", [ROOT / "README.md", *PAGES], ids=lambda page: page.name)
def test_the_tables_are_made_from_the_records(docs_made_again, page):
    """And those of scaling.md from the models' dimensions."""
    assert (docs_made_again / page.relative_to(ROOT)).read_text() == page.read_text()


@pytest.mark.parametrize("name", FIGURES)
def test_the_figures_are_made_from_the_records(docs_made_again, name):
    made = docs_made_again / "docs" / "images" / name
    assert made.read_text() == (ROOT / "docs" / "images" / name).read_text()


@pytest.mark.parametrize("page", [ROOT / "README.md", *PAGES], ids=lambda page: page.name)
def test_every_marked_table_is_closed(page):
    """Else two tables and the text between them would be taken for one."""
    marks = re.findall(r"<!-- (table: \w+\.\w+|end of table)", page.read_text())
    assert [mark.startswith("end") for mark in marks] == [False, True] * (len(marks) // 2)
    assert len(re.findall("<!-- table", page.read_text())) == len(marks) // 2


def test_the_records_stay_small():
    files = [file for file in (ROOT / "docs" / "records").rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) < 1_000_000


def script_of_docs(monkeypatch, name):
    """The module `docs/NAME.py`."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "docs" / f"{name}.py")
    script = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, script)  # dataclasses look their module up
    spec.loader.exec_module(script)
    return script


STUDIES = sorted((ROOT / "docs" / "records").rglob("*.jsonl"))


@pytest.mark.parametrize(
    "file", STUDIES, ids=lambda file: file.relative_to(ROOT / "docs" / "records").as_posix()
)
def test_every_committed_study_can_be_compared(file):
    """Also those that no page reads; what holds other records is passed over, as in a search of its folder."""
    from ift.report import find
    from ift.report.comparisons import compare

    if '"ift-run"' in file.open().read(100):
        assert compare(find([file]))


def test_runs_are_committed_as_studies_not_one_by_one():
    for file in (ROOT / "docs" / "records").rglob("*.json"):
        assert '"ift-run"' not in file.open().read(100), f"{file}: pack it: ift report --pack"


def test_a_study_is_taken_by_name_from_either_place(monkeypatch, tmp_path):
    from ift.report import ReportError

    from page_tables import results

    monkeypatch.setattr(results, "RECORDS", tmp_path)
    (tmp_path / "as-released").mkdir()
    for source, name in (("compare-quick", "both"), ("as-released/compare-gsm8k", "as-released/both"),
                         ("as-released/compare-gsm8k", "as-released/old")):  # fmt: skip
        shutil.copy(ROOT / "docs" / "records" / f"{source}.jsonl", tmp_path / f"{name}.jsonl")
    places = [next(iter(results.study(name))) for name in ("both", "as-released/both", "old")]
    assert [place.relative_to(tmp_path).as_posix() for place in places] == [
        "both.jsonl:1", "as-released/both.jsonl:1", "as-released/old.jsonl:1"
    ]  # fmt: skip
    with pytest.raises(ReportError, match=r"none\.jsonl: no such file"):
        results.study("none")


def test_records_are_made_compact_without_a_change(monkeypatch, tmp_path):
    script = script_of_docs(monkeypatch, "compact_records")
    record = {"a": [{"x": 1 / 3}, {"x": 2, "y": [1.5, None]}], "b": [], "c": {"\u2028": [1, 2]}, "d": True}
    assert json.loads(script.by_lines(record)) == record
    assert script.by_lines({"a": [{"x": 1}, {}], "b": [1, 2]}) == '{\n"a":[\n{"x":1},\n{}\n],\n"b":[1,2]\n}\n'
    assert script.rounded(record, 3)["a"] == [{"x": 0.333}, {"x": 2, "y": [1.5, None]}]
    files = [tmp_path / "1.json", tmp_path / "2.json"]
    for file in files:
        file.write_text(json.dumps(record, indent=1))
    monkeypatch.setattr(sys, "argv", ["", "--lines", str(tmp_path / "all.jsonl"), *map(str, files)])
    script.main()
    assert [json.loads(line) for line in (tmp_path / "all.jsonl").read_text().splitlines()] == [
        record,
        record,
    ]
    monkeypatch.setattr(sys, "argv", ["", str(files[0])])
    script.main()
    assert files[0].read_text() == script.by_lines(record)


def test_runs_of_a_study_are_made_compact(monkeypatch, tmp_path):
    """Only what the first run says too is left out, and the file is still read as records."""
    from ift.report import find

    script = script_of_docs(monkeypatch, "compact_records")
    runs = [
        json.loads(line) for line in (ROOT / "docs/records/compare-geoquery.jsonl").read_text().splitlines()
    ]
    made = {**runs[0]["provenance"], "command": "ift compare"}
    for run, command in zip(runs, ("ift compare", "ift compare", "ift compare --seeds 4"), strict=False):
        run["provenance"] = {**made, "command": command}
        run["row_scores"] = {"test": {"sql": [0.0, 1.0, 0.5]}}
    file = tmp_path / "study.jsonl"
    file.write_text("".join(json.dumps(run) + "\n" for run in runs[:3]))
    monkeypatch.setattr(sys, "argv", ["", "--study", str(file)])
    script.main()
    found = [json.loads(line) for line in file.read_text().splitlines()]
    assert [run["provenance"]["command"] for run in found] == ["ift compare", "", "ift compare --seeds 4"]
    assert [bool(run["provenance"]["versions"]) for run in found] == [True, False, False]
    assert '"sql":[0,1,0.5]' in file.read_text()
    assert [list(run["data"]) for run in found] == [["test"], ["train"], []]
    assert len(find([file])) == 3
    rest = ("provenance", "row_scores", "data")
    assert [{k: v for k, v in run.items() if k not in rest} for run in found] == [
        {k: v for k, v in run.items() if k not in rest} for run in runs[:3]
    ]


def test_the_architectures_that_share_a_prefix_are_named():
    from ift.step.shared_prefix.prefix import SHARING

    text = (ROOT / "docs" / "performance.md").read_text()
    named = text[text.index("**Shared**") : text.index("With the attentions")]
    assert set(re.findall(r"`(\w+)`", named)) - {"model_type"} == SHARING


def test_the_words_of_every_message_in_the_troubleshooting_are_in_the_source():
    """And there are at least thirty. What is between two parts of a message is written as "..." on the page."""
    sources = "\n".join(file.read_text() for file in sorted((ROOT / "src" / "ift").rglob("*.py")))
    joined = re.sub(r'"\s*\n\s*f?"', "", sources).replace("`", "")
    page = (ROOT / "docs" / "troubleshooting.md").read_text()
    messages = re.findall(r"^\| [^|]+ \| `([^`]+)` \| .+ \|$", page, re.MULTILINE)
    assert len(messages) >= 30
    filled = {
        "a number": "{expected}",
        "pip install 'intuitive-fine-tuning[report]": "'intuitive-fine-tuning[{','.join(extras)}]",
    }
    for message in messages:
        for shown, written in filled.items():
            message = message.replace(shown, written)
        for part in message.split("..."):
            assert part.strip() in joined, message


def test_the_paper_is_what_is_cited_and_issues_ask_for_the_environment():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["preferred-citation"]["title"].startswith("Intuitive Fine-Tuning: Towards")
    assert len(citation["preferred-citation"]["authors"]) == 7
    for file in (ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"):
        form = yaml.safe_load(file.read_text())
        if "body" in form:
            required = [one["attributes"]["label"] for one in form["body"] if one["validations"]["required"]]
            assert "Output of `ift env`" in required, file.name
