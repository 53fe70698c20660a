"""A saved folder as other engines read it: vLLM, llama.cpp's converter, `transformers serve`.

None of them runs here. They read the files of the Hugging Face format by these names and keys, and nothing of ift's.
"""

import json

import pytest
import transformers
from safetensors import safe_open
from transformers import AutoConfig, AutoTokenizer, GenerationConfig

from ift.lab.testbed import problems, tiny_base_path
from ift.models.merging import save_merged
from ift.runs.from_python import train_method

END = "<|turn_end|>"  # ends a turn; the base's own end token is another one
CHATML = (
    "{% for m in messages %}{{ '<|user|>' + m.content + '" + END + "' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|user|>' }}{% endif %}"
)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """The shipped base with a template whose turns end with a token that is not its end-of-sequence token."""
    folder = tmp_path_factory.mktemp("models") / "base"
    tokenizer = AutoTokenizer.from_pretrained(tiny_base_path())
    tokenizer.add_special_tokens({"extra_special_tokens": [END]}, replace_extra_special_tokens=False)
    tokenizer.chat_template = CHATML
    tokenizer.save_pretrained(folder)
    model = transformers.AutoModelForCausalLM.from_pretrained(tiny_base_path())
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module", params=["full", "merged"])
def saved(request, base, tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    rows = [problem.row for problem in problems("train", 2)]
    settings = {"max_steps": 1, "per_device_train_batch_size": 2}
    if request.param == "full":
        train_method("ift", base, rows, folder / "model", settings)
        return folder / "model"
    train_method("ift", base, rows, folder / "adapter", {**settings, "use_peft": True, "lora_r": 2})
    save_merged(str(folder / "adapter"), folder / "model")
    return folder / "model"


def read(path):
    return json.loads(path.read_text())


def test_the_configuration_is_the_architecture_s_own(saved, base):
    """vLLM and the converter choose the model by `architectures`. Red when: a key of ift's, or code, gets in."""
    config = read(saved / "config.json")
    assert config["architectures"] == ["LlamaForCausalLM"]
    assert config["dtype"] in ("float32", "bfloat16")
    assert config.keys() <= AutoConfig.for_model("llama").to_dict().keys() | read(base / "config.json").keys()
    assert "auto_map" not in config
    assert not [*saved.glob("*.py")]


def test_the_weights_have_the_names_of_the_architecture(saved, base):
    names = {}
    for folder in (saved, base):
        with safe_open(folder / "model.safetensors", "pt") as file:
            names[folder] = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118
    assert names[saved] == names[base]
    assert not [name for name in names[saved] if "lora" in name or "base_model" in name]


def test_generation_ends_where_a_turn_ends(saved):
    """vLLM and `transformers serve` stop at the ids of generation_config.json."""
    tokenizer = AutoTokenizer.from_pretrained(saved)
    ends = GenerationConfig.from_pretrained(saved).eos_token_id
    assert set(ends) == {tokenizer.convert_tokens_to_ids(END), tokenizer.eos_token_id}


def test_the_tokenizer_and_its_template_are_there(saved, base):
    """The converter reads tokenizer.json, tokenizer_config.json and chat_template.jinja."""
    assert (saved / "chat_template.jinja").read_text() == CHATML
    assert read(saved / "tokenizer.json")["model"] == read(base / "tokenizer.json")["model"]
    assert (
        read(saved / "tokenizer_config.json")["eos_token"]
        == read(base / "tokenizer_config.json")["eos_token"]
    )
