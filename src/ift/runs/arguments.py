"""Parses the arguments of `ift train` like trl (flags and flat YAML, flags win); unknown names are errors."""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import yaml
from trl import DatasetMixtureConfig, ModelConfig, ScriptArguments, TrlParser

from ift.data import DataError
from ift.data.formats import parse_columns
from ift.generation.during_training import AnswerArguments
from ift.methods.stage import Stage
from ift.methods.table import METHODS, Method, fields_left_to_other_stages
from ift.runs.argv import (
    UsageError,
    drop_flags,
    drop_words,
    expand_home,
    split_by_stage,
    split_equals,
    value_of,
    with_example,
)
from ift.runs.known_flags import last_given, launch_flags, refuse_foreign_file, unknown, wanted_methods
from ift.runs.mixture import parse_mixture
from ift.runs.output_folder import stage_folder
from ift.runs.ranges import check_ranges, check_used, raise_together, switched_off
from ift.runs.resume_words import read_resume_words
from ift.runs.value_types import is_valid, narrow_types
from ift.runs.yaml_file import parse_renaming, parse_yaml_file, text_as_written
from ift.training.config import field_with_help
from ift.training.other_tools import suggest_equivalent


@dataclass
class ColumnArguments:
    """Renaming of columns."""

    dataset_columns: list[str] = field(
        default_factory=list,
        metadata={"help": "Columns to rename first, such as question=instruction answer=output."},
    )


@dataclass
class MethodArguments:
    """The method to train."""

    method: str = field_with_help(
        "ift",
        f"Training method: {', '.join(METHODS)}, or a sequence such as sft+dpo. In a sequence each stage "
        "takes the flags that its method has, and --2.learning_rate is for the second stage only.",
    )


@dataclass
class RunArguments:
    """What the check before a run accepts, and how an existing output folder is treated."""

    allow_truncation: bool = field_with_help(
        False, "Start even if max_length truncates more than 20%% of the rows or of the trained tokens."
    )
    force: bool = field_with_help(
        False, "Start even if the check before the run fails; its findings are printed."
    )
    allow_pickle_weights: bool = field_with_help(
        False, "Load PyTorch pickle files (.bin) of a model or adapter that has no safetensors."
    )
    resume: str | None = field_with_help(
        None,
        "Resume from this checkpoint; auto (or true): from the newest complete one in the output folder.",
    )
    allow_changed: list[str] = field(
        default_factory=list, metadata={"help": "Settings that may differ from those of the resumed run."}
    )
    overwrite_output_dir: bool = field_with_help(
        False,
        "Train into a folder that is not empty; what an earlier run of ift train wrote there is deleted.",
    )


@dataclass
class TrainArguments(Stage):
    """The settings of one stage from the command line: a `Stage`, and options of `ift train`.

    Attributes:
        run: Options of the check and the output folder.
        launch: Flags of `accelerate launch`, such as --num_processes.
        words: The command line without those flags: the arguments of each process.
        answers: Answers generated at each evaluation and at the end.
        named: Names of the settings on the command line or in the YAML file, even those with their default value.
        finished: Whether the stage is already finished, in a resumed sequence.
        later_folders: The output folders of the later stages of a sequence.
        switched_off: Settings of the YAML file that a flag leaves without effect -> that flag.
    """

    run: RunArguments
    launch: list[str]
    words: list[str]
    answers: AnswerArguments
    named: frozenset[str] = frozenset()
    finished: bool = False
    later_folders: Sequence[str] = ()
    switched_off: Mapping[str, str] = field(default_factory=dict)


class Parser(TrlParser):
    """trl's parser with short UsageErrors; checks the types of YAML values and names file and line.

    Attributes:
        problems: What is wrong with values of the YAML file, to be reported together with its unknown keys.
    """

    nodes: dict[str, yaml.Node] = {}  # noqa: RUF012 (replaced, never changed)
    file: str | None = None
    others: frozenset[str] = frozenset()  # keys of other stages
    problems: tuple[str, ...] = ()

    def set_defaults_with_config(self, **kwargs: Any) -> list[str]:
        """Checks the values of the YAML file before they become defaults."""
        actions = {action.dest: action for action in self._actions}
        checked: dict[str, Any] = {}
        for key, value in kwargs.items():
            if key in self.others:
                continue
            try:
                checked[key] = self._checked(actions[key], value) if key in actions else value
            except (UsageError, DataError) as error:
                self.problems = (*self.problems, str(error))
        return super().set_defaults_with_config(**checked)

    def _checked(self, action: argparse.Action, value: Any) -> Any:
        """Parses a YAML value like the flag's; argparse does not check defaults that are not strings."""
        kind: Any = action.type or str
        if action.dest == "dataset_columns" and value is not None:
            return parse_renaming(self.nodes[action.dest], self.file)
        if action.dest == "datasets" and value is not None:
            return parse_mixture(self.nodes[action.dest], str(self.file))
        many, choices = action.nargs in ("+", "*"), list(action.choices or [])
        if value is None or isinstance(value, dict) or (isinstance(value, list) and many and kind is not str):
            return value
        if choices or kind is str:  # the text in the file, since YAML reads `no` as false and 1.10 as 1.1
            value = expand_home(text_as_written(self.nodes[action.dest], value))
            if isinstance(value, list):
                return value
        if not is_valid(kind, str(value)) or (choices and kind(str(value)) not in choices):
            kinds = (
                ("true or false", "true"),
                ("a number", "0.5"),
                ("a whole number", "1"),
                ("a mapping", "{}"),
            )
            fitting = [words for words, example in kinds if is_valid(kind, example)]
            expected = (
                f"one of {', '.join(map(str, choices))}" if choices else next(iter(fitting), "another value")
            )
            line = self.nodes[action.dest].start_mark.line + 1
            raise UsageError(f"{self.file}, line {line}: {action.dest} is {value!r}; give {expected}.")
        return [kind(str(value))] if many else kind(str(value))

    def error(self, message: str) -> NoReturn:
        """Raises UsageError instead of printing the usage of some 300 flags."""
        raise UsageError(with_example(message))


def make_parser(method: Method = METHODS["ift"]) -> Parser:
    """The parser of `ift train --method`, for flags and YAML keys, with the method's settings as defaults."""
    # trl and peft call these by their old names; and trl warns about the experimental features that ift pins
    for name in ("gradient_checkpointing_enable", "is_gradient_checkpointing"):
        warnings.filterwarnings("ignore", message=f".*{name}", category=FutureWarning)
    warnings.filterwarnings("ignore", message=".*trl.experimental")
    config = method.load_config()
    kinds = (ScriptArguments, config, ModelConfig, DatasetMixtureConfig, ColumnArguments, MethodArguments)
    parser = Parser(
        (*kinds, RunArguments, AnswerArguments), prog="ift train", allow_abbrev=False, add_help=False
    )
    narrow_types(parser, config._VALID_DICT_FIELDS)
    TrlParser.set_defaults_with_config(parser, **method.settings)
    return parser


def parse(arguments: list[str]) -> TrainArguments:
    """Parses the command line of a single method; raises as `parse_stages` does."""
    (run_args,) = parse_stages(arguments)
    return run_args


def parse_stages(
    arguments: list[str], other_methods: Sequence[Method] = (), other_keys: Collection[str] = ()
) -> list[TrainArguments]:
    """Parses the command line, and the YAML file if it names one, into the settings of each stage of the method.

    Args:
        arguments: The command line after `ift train`.
        other_methods: Other methods that are trained with the same arguments (by `ift compare`): flags that only they
            know, or can change, are ignored, like those of other stages of a sequence.
        other_keys: Keys of the YAML file that another command reads.

    Raises:
        UsageError: Unknown method, flag or key (with a suggestion), wrong type, value out of range, or conflict.
    """
    arguments = [expand_home(word) for word in split_equals(arguments)]
    config_file = value_of(arguments, "--config")
    nodes = parse_yaml_file(Path(config_file)) if config_file else {}
    nodes = {key: node for key, node in nodes.items() if key not in other_keys}
    refuse_foreign_file(config_file, nodes)
    methods = wanted_methods(arguments, nodes)
    parsers = [make_parser(method) for method in methods]
    known = {option for parser in parsers for option in parser._option_string_actions}
    known |= {option for method in other_methods for option in make_parser(method)._option_string_actions}
    known.update(f"--{key}" for key in other_keys)
    stages: list[TrainArguments] = []
    for number, (method, parser) in enumerate(zip(methods, parsers, strict=True), start=1):
        parser.file, parser.nodes = config_file, nodes
        common, specific = split_by_stage(arguments, number, len(methods))
        for word in specific:
            if word.startswith("--") and word not in parser._option_string_actions:
                raise UsageError(unknown(word, [*parser._option_string_actions], None, None))
        others = frozenset(fields_left_to_other_stages((*methods, *other_methods), number))
        parser.others = others | frozenset(other_keys)
        common = drop_flags(common, {f"--{name}" for name in others})
        stages.append(_parse_stage(method, parser, common + specific, known))
        stages[-1].words = drop_words(arguments, stages[-1].words)
        if len(methods) > 1:
            config = stages[-1].config
            if config.resume_from_checkpoint or stages[-1].run.resume not in (None, "auto"):
                raise UsageError(
                    "resume: a sequence cannot resume from a named checkpoint, because its stage is unknown. Use "
                    "--resume auto: each stage resumes from its own folder."
                )
            config.output_dir = str(stage_folder(config.output_dir, methods, number))
            config.push_to_hub = config.push_to_hub and number == len(methods)
            if number < len(methods):
                stages[-1].answers.final_answers = 0
    return stages


def _parse_stage(method: Method, parser: Parser, arguments: list[str], known: set[str]) -> TrainArguments:
    """Parses the arguments of one stage; `known` are the options of all stages."""
    elsewhere = known - parser._option_string_actions.keys()
    lines = {key: node.start_mark.line + 1 for key, node in parser.nodes.items()}
    try:
        *parsed, from_file, from_flags = parser.parse_args_and_config(
            arguments, return_remaining_strings=True, separate_remaining_strings=True
        )
        from_file, from_flags = drop_flags(from_file, elsewhere), drop_flags(from_flags, elsewhere)
        in_file, wrong = launch_flags(known, from_file, lines, parser.file)
        launch, unknown_flags = launch_flags(known, from_flags)
        if problems := [*wrong, *parser.problems, *unknown_flags]:
            own = parser._option_string_actions
            if sum(f"--{key}" not in own and bool(suggest_equivalent(key)) for key in lines) > 1:
                problems.append(
                    f"`ift convert-config {parser.file} --output ift.yaml` translates the whole file."
                )
            raise UsageError("\n".join(problems))
        script, config, model, mixture, columns, _, run, answers = parsed  # in the order of `make_parser`
        read_resume_words(config, run)
        renamed = parse_columns(columns.dataset_columns)
    except (ValueError, TypeError) as error:
        # transformers refuses tf32 as soon as it sees no GPU that has it
        fix = ". Fix: --tf32 false on this machine" if "--tf32 requires" in str(error) else ""
        raise UsageError("\n".join([*parser.problems, f"{error}{fix}"])) from error
    flags = {word.lstrip("-").replace("-", "_") for word in arguments if word.startswith("--")}
    named = flags | parser.nodes.keys() - (off := switched_off(flags, parser.nodes, model)).keys()
    raise_together(
        lambda: method.check(config),
        lambda: check_ranges(config, model, mixture),
        lambda: answers.check(config.eval_strategy),
        lambda: check_used(named, script, model, mixture, config),
        lambda: _check_given(script, config, model, mixture),
    )
    if run.allow_pickle_weights:
        config.model_init_kwargs = {"use_safetensors": None, **(config.model_init_kwargs or {})}
    launch = last_given([*in_file, *launch])
    parts = script, config, model, mixture, renamed, method, run, launch, from_flags, answers
    return TrainArguments(*parts, frozenset(named), switched_off=off)


def _check_given(script: Any, config: Any, model: Any, mixture: Any) -> None:
    """Raises UsageError without a model or data, and for a template that a mixture cannot have."""
    template = getattr(config, "chat_template_path", None)
    problems = {
        "chat_template_path must be a Jinja file with a mixture: its data sets are prepared before the model loads.": (
            template and not Path(template).is_file() and len(mixture.datasets) > 1
        ),
        "no model: give --model_name_or_path, a Hub id or a local folder.": model.model_name_or_path is None,
        "no data: give --dataset_name (a Hub id, a folder or a file), or `datasets:` in the YAML file.": (
            script.dataset_name is None and not mixture.datasets
        ),
    }
    if found := [problem for problem, holds in problems.items() if holds]:
        raise UsageError("\n".join(found))
