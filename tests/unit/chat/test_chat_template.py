"""A base's own chat template: prompts equal transformers' own, and training follows what the model reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken
from transformers import PreTrainedTokenizerFast

from pllava.chat.chat_template import ChatTemplate, chat_template, jinja_of
from pllava.chat.conversation import encode
from pllava.chat.template import load_template, template_for
from pllava.core.errors import PllavaError

TEXTS = "{% for part in message['content'] | selectattr('type', 'equalto', 'text') %}"
IMAGES = "{% for part in message['content'] if part['type'] in ('image', 'video') %}{{ '<image>\n' }}{% endfor %}"
TEMPLATES = {
    "llava 1.5": "{% for message in messages %}{% if message['role'] != 'system' %}{{ message['role'].upper() + ': ' }}{% endif %}"
    + IMAGES + TEXTS + "{{ part['text'] + ' ' }}{% endfor %}{% endfor %}{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}",
    "onevision": "{% for message in messages %}{{ '<|im_start|>' + message['role'] + ' ' }}"
    "{% for part in message['content'] if part['type'] == 'video' %}{{ '<video>' }}{% endfor %}"
    + TEXTS + "{{ '\n' + part['text'] }}{% endfor %}{{ '<|im_end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
    "qwen, text only, with a system text": "{% if messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nBe kind.<|im_end|>\n' }}{% endif %}"
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
    "mistral": "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'user' %}{{ '[INST] ' }}" + IMAGES + TEXTS
    + "{{ part['text'] }}{% endfor %}{{ ' [/INST]' }}{% else %}" + TEXTS + "{{ ' ' + part['text'] | trim }}{% endfor %}{{ eos_token }}"
    "{% endif %}{% endfor %}",
    "llama 3": "{% set loop_messages = messages %}{% for message in loop_messages %}{% set content = '<|im_start|>' + "
    "message['role'] + '\n\n' + "
    "message['content'] | trim + '<|im_end|>' %}{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}{{ content }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n\n' }}{% endif %}",
    "the question first": "{% for message in messages %}{{ '<|im_start|>' + message['role'] }}" + TEXTS + "{{ part['text'] }}{% endfor %}"
    + IMAGES + "{{ '<|im_end|>' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant' }}{% endif %}",
}  # fmt: skip
TURNS = [("What is it?", "A cat."), ("Where?", "On the mat.")]


@pytest.fixture(scope="module", params=[True, False], ids=["tokenizer adds <s>", "adds nothing"])
def tokenizer(request: Any, tiny_base_dir: Path) -> Any:
    made = PreTrainedTokenizerFast.from_pretrained(tiny_base_dir)
    made.add_tokens([AddedToken(word, special=True, normalized=False) for word in ("<video>", "<|im_start|>", "<|im_end|>")])
    if not request.param:
        from tokenizers.processors import Sequence

        made.backend_tokenizer.post_processor = Sequence([])
    assert (made("x")["input_ids"][0] == made.bos_token_id) == request.param
    return made


def transformers_text(tokenizer: Any, jinja: str, name: str, question: str, history: list[tuple[str, str]], answer: bool = True) -> str:
    """What transformers' own apply_chat_template writes, with the model's placeholder."""
    text_only = "message['content'] |" not in jinja.replace("| trim", "") and "part in" not in jinja
    conversation: list[dict[str, Any]] = []
    for number, (asked, replied) in enumerate([*history, (question, "")]):
        words = [{"type": "text", "text": asked}]
        conversation.append({"role": "user", "content": [{"type": "video"}, *words] if number == 0 else words})
        if replied:
            conversation.append({"role": "assistant", "content": [{"type": "text", "text": replied}]})
    if text_only:
        for message in conversation:
            texts = [part["text"] for part in message["content"] if part["type"] == "text"]
            message["content"] = ("<image>\n" if len(message["content"]) == 2 else "") + texts[0]
    text = tokenizer.apply_chat_template(conversation, chat_template=jinja, tokenize=False, add_generation_prompt=answer)
    return str(text).replace("<video>", "<image>")


@pytest.mark.parametrize("name", TEMPLATES)
def test_prompts_equal_transformers_own(name: str, tokenizer: Any) -> None:
    template = chat_template(tokenizer, TEMPLATES[name], "base")
    for count in range(3):
        wanted = transformers_text(tokenizer, TEMPLATES[name], name, "And now?", TURNS[:count])
        prompt = template.prompt_for("And now?", TURNS[:count])
        begins = tokenizer.bos_token if wanted.startswith(tokenizer.bos_token) and template.writes_bos else ""
        assert begins + prompt == wanted
        ids = tokenizer(prompt)["input_ids"]
        assert ids.count(tokenizer.bos_token_id) == (1 if template.writes_bos or wanted.startswith(tokenizer.bos_token) else 0)
    assert (template.mm_style == "MM_AFTER") == (name == "the question first")


@pytest.mark.parametrize("name", [name for name in TEMPLATES if name != "the question first"])
def test_training_supervises_answers_behind_what_the_model_reads(name: str, tokenizer: Any) -> None:
    template = chat_template(tokenizer, TEMPLATES[name], "base")
    one = template.training_pieces([{"q": "What is it?", "a": "A cat."}])
    assert one[0] == (template.prompt_for("What is it?"), False)
    assert one[1][1]
    assert one[1][0].strip().startswith("A cat.")
    assert one[1][0].endswith(template.sep[1])
    assert template.end_token in one[1][0]
    two = template.training_pieces([{"q": q, "a": a} for q, a in TURNS])
    assert [supervised for _, supervised in two] == [False, True, False, True]
    assert two[:2] == one
    assert "Where?" in two[2][0]
    assert "cat" not in two[2][0]
    encoded = encode([{"q": q, "a": a} for q, a in TURNS], tokenizer, template, 200)
    supervised = tokenizer.decode([token for token, label in zip(encoded.input_ids, encoded.labels, strict=True) if label != -100])
    assert "A cat." in supervised
    assert "On the mat." in supervised
    assert "What" not in supervised
    assert "Where" not in supervised
    assert encoded.input_ids.count(tokenizer.convert_tokens_to_ids("<image>")) == 1


@pytest.mark.parametrize("name", TEMPLATES)
def test_words_that_would_end_a_turn_are_refused(name: str, tokenizer: Any) -> None:
    template = chat_template(tokenizer, TEMPLATES[name], "base")
    for marker in ("<|im_end|>", "<video>", "<image>", "</s>", template.roles[0], template.roles[1].strip()):
        with pytest.raises(PllavaError, match="has a meaning of its own"):
            template.prompt_for(f"Is it {marker} red?")
    template.prompt_for("Is the user an assistant?")


@pytest.mark.parametrize(
    ("jinja", "sentence"),
    [
        ("{% for message in messages %}" + TEXTS + "{{ part['text'] }}{% endfor %}{% endfor %}", "never mentions the video"),
        ("{% for message in messages %}{{ 'user: <image>' }}{% endfor %}", "never mentions the video"),
        ("{{ messages }", "does not render"),
        ("{{ raise_exception('no such role') }}", "does not render: no such role"),
        ("{{ messages.__class__.__mro__[1].__subclasses__() }}", "does not render|never mentions"),
        (None, "no chat template in here"),
    ],
)
def test_a_template_without_the_video_is_one_sentence(jinja: Any, sentence: str, tokenizer: Any) -> None:
    with pytest.raises(PllavaError, match=sentence):
        chat_template(tokenizer, jinja, "base")


def test_the_template_is_read_from_every_file_of_transformers(tokenizer: Any, tmp_path: Path) -> None:
    jinja = TEMPLATES["onevision"]
    tokenizer.chat_template = jinja
    for number, legacy in enumerate((False, True)):
        folder = tmp_path / str(number)
        tokenizer.save_pretrained(folder, save_jinja_files=not legacy)
        assert jinja_of(folder) == jinja
        template = load_template("chat", folder)
        assert isinstance(template, ChatTemplate)
        assert template.sha256 == chat_template(tokenizer, jinja, "x").sha256
    tokenizer.chat_template = None
    with pytest.raises(PllavaError, match="no conversation template 'chat'"):
        load_template("chat")


def test_published_models_keep_their_recorded_templates() -> None:
    assert template_for("llava-hf/llava-v1.6-34b-hf", True) == "yi"
    assert template_for("ermu2001/pllava-7b", True) == "vicuna"
    assert template_for("llava-hf/llava-onevision-qwen2-0.5b-ov-hf", True) == "chat"
    assert template_for("data/base/tiny-llava", False) == "vicuna"
